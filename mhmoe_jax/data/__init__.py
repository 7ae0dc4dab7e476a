"""Text in, packed batches out: the only folder that imports tensorflow and seqio.

A `DataConfig` (config.py) says where text comes from. On the way to training it passes
gfile.py, spans.py, jsonl.py and texts.py (files), sources.py, graph.py and windows.py
(tokens), packing.py (rows) and feed.py: an iterator over numpy batches, whose place
snapshot.py saves. preparing.py writes tokens ahead of training, prepared.py reads them.
vocabularies.py knows the tokens, tokenizer.py trains SentencePiece models.

What uses a trained model needs no tensorflow and does not load it: vocabularies.py,
documents.py, and validation.py, which reads the files of an evaluation by itself.

Only the config is imported here, so that it can be built, checked and printed without
tensorflow.
"""

from mhmoe_jax.data.config import DataConfig

__all__ = ["DataConfig"]
