"""Keys, values and positions of chunks. Knows no text and no index."""
