"""What any pass may use: helpers for nodes, notes and text of a graph, and its clean-up."""
