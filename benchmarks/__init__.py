"""What the project claims, measured: each room by what it measures, run as modules from the repository's root."""
