"""A release's notes are its part of the changelog; what is built and tried is `make release`'s own run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import release

import lrp_compiler as lrp

CHANGELOG = """# Changelog

## 0.3.0

### Added

- A rule.

## 0.2.0

### Fixed

- A defect.
"""


def test_notes_are_the_part_of_the_release() -> None:
    assert release.notes("0.2.0", CHANGELOG) == "# 0.2.0\n\n### Fixed\n\n- A defect.\n"


@pytest.mark.parametrize(
    ("version", "text", "sentence"),
    [
        ("0.4.0", CHANGELOG, r"no part '## 0\.4\.0': the newest is 0\.3\.0"),
        ("0.4.0", "# Changelog\n", "the newest is none"),
        ("0.2.0", CHANGELOG.replace("Fixed", "Mended"), "'Mended' of 0.2.0 is none of Added"),
    ],
)
def test_a_release_without_notes_is_none(version: str, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        release.notes(version, text)


def test_the_tree_has_notes_for_its_version() -> None:
    assert release.version() == lrp.__version__
    assert len(release.notes(lrp.__version__, (release.ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))) > 100


@pytest.mark.slow
def test_what_a_release_is_tried_with_holds_here(tmp_path: Path) -> None:
    """The two programs of the empty environments; only that torch is absent cannot be so here."""
    explain = release.EXPLAIN.replace('assert importlib.util.find_spec("torch") is None\n', "")
    assert explain != release.EXPLAIN
    for code in (release.COMPILE, explain):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)

    assert (tmp_path / "relevance.png").read_bytes().startswith(b"\x89PNG")
    assert np.load(tmp_path / "expected.npz")["relevance"].shape == (2, 3, 8, 8)
