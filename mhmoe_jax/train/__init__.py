"""Training: everything between a model and a run."""
