"""What a trace tells, as numbers: plain arrays in, plain arrays out."""
