"""Whether relevance points at what the prediction rests on: by flipping, beside the peers and beside chance."""
