"""Pictures, alone and with text: sources, augmentation, masks, and a corpus of shapes.

Everything is by number: example i of epoch e is a pure function of the config, so that
the place of a run is a step, and batches depend on no process, thread or kill.
"""
