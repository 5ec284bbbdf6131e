"""Test sets and results in the file layouts of other tools. Each module knows one layout; none knows the pipeline."""
