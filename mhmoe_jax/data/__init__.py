"""Text in, packed batches out: the only folder that imports tensorflow and seqio.

A `DataConfig` (config.py) names a source and a vocabulary. tasks.py makes a seqio task
of it, feed.py an iterator over numpy batches whose exact position can be saved and
restored. sources.py and spans.py cut files into pieces that processes can share,
vocabularies.py counts the bytes behind each token, tokenizer.py trains SentencePiece.

Only the config is imported here, so that a config can be built, checked and printed
without loading tensorflow.
"""

from mhmoe_jax.data.config import DataConfig

__all__ = ["DataConfig"]
