"""A corpus -> matches. Knows postings, vectors and centroids; knows no file format and no answer."""
