"""Whether a file is sound and a model is covered."""
