"""Text in, packed batches out: the only folder that imports tensorflow and seqio.

A `DataConfig` (config.py) says where text comes from. On the way to the model it passes
spans.py and jsonl.py (files), sources.py, tasks.py (tokens), packing.py (rows) and
feed.py: an iterator over numpy batches, whose place snapshot.py saves. preparing.py
writes tokens ahead of training, prepared.py reads them. vocabularies.py counts the
bytes behind each token, tokenizer.py trains SentencePiece models.

Only the config is imported here, so that it can be built, checked and printed without
tensorflow.
"""

from mhmoe_jax.data.config import DataConfig

__all__ = ["DataConfig"]
