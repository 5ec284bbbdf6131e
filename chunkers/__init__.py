"""Document -> chunks. Knows text and offsets; knows no index and no file format."""
