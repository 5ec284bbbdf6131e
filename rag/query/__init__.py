"""From a question, and the conversation before it, to hits. Knows questions, turns and searches; knows no index and no generator."""
