"""Ragstone: the whole retrieval-augmented generation chain on your own hardware, every stage of it provable."""
