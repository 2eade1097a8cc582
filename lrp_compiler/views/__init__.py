"""An explainer shown: books, listings, differences, pages."""
