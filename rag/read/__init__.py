"""Files -> documents. Knows formats and bytes; knows no chunk and no index."""
