"""Batches of masked multi-modal modelling: pictures, text, and pictures with text."""
