"""What the right answer was. Knows the pipeline only through its public face."""
