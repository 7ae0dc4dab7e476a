"""The layer: pure functions on arrays, with Flax only in `experts` and `layer`."""
