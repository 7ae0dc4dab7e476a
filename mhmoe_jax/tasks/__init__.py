"""What a model learns: a file for each task, and task.py, which says what one is."""
