"""What a trace tells, as pictures in files and notebooks."""
