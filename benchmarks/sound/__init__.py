"""Whether every node has a rule, the books balance, and every runtime says the same."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Tables of what holds for all models: random ones, operators, libraries."""
