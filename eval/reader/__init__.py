"""The reader: a small language model trained here to answer from several chunks, and the tasks it is trained and measured on.

Knows generated tasks, prompts as id segments, and how to train and measure; knows no cache and no driver.
"""
