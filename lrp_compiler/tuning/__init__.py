"""Which options of a composite are most faithful to a model."""
