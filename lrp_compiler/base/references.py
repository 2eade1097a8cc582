"""What an input is compared with: the references of a call."""

from __future__ import annotations

PREFIX = "reference."
"""In front of an input's name: the input that takes its reference."""
