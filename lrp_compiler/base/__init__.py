"""The ground: nothing in here imports torch."""
