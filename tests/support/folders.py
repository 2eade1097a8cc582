"""Where things lie."""

from pathlib import Path

TESTS: Path = Path(__file__).resolve().parents[1]
ROOT: Path = TESTS.parent
