"""What a trace tells, as one page for a browser."""
