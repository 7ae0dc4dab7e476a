"""What became of every sub-token: run, written down, read."""
