"""Whether every node has a rule, the books balance, and every runtime says the same."""
