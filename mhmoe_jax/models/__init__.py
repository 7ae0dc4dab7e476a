"""Language models built on the layer. They never see data/ and take plain arrays."""
