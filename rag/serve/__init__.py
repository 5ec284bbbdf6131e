"""The pipeline over HTTP. Knows requests and responses; the pipeline does the work."""
