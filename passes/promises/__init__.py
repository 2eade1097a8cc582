"""Which forward values relevance needs, and how each of them is had."""
