"""Facts about every node of the forward graph, and the rule that it gets."""
