"""What the routers of a trained model do."""
