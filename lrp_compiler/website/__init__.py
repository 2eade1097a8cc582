"""A website around an explainer."""
