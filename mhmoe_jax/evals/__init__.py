"""What a trained model can do: perplexity of a text, samples."""
