"""The walk that emits relevance, what it starts from, and several targets at once."""
