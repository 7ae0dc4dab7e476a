"""Pictures with a text, and labels: what fine-tuned tasks read."""
