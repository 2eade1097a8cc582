"""Where things lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Of the repository."""
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
"""Rows, tables and pictures that are published."""
BUILD = ROOT / "build"
"""What is fetched and made on the way, a folder for each script."""
