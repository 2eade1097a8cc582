"""Data sets on Ray: the tests that need it, in an environment of their own, made in build/ray.

python -m benchmarks.sound.cluster                  # all of them: thirty kills, a full disk, a node that dies
python -m benchmarks.sound.cluster -m "not heavy"   # whatever follows goes on to pytest
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.base import beside
from benchmarks.base.places import ROOT
from benchmarks.base.processes import environment

TESTS = "tests/product/data/test_cluster.py"


def main() -> None:
    interpreter = beside.with_extra("ray")
    options = sys.argv[1:] or ["-m", ""]
    command = [interpreter, "-m", "pytest", "-rs", "-p", "no:cacheprovider", TESTS, *options]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment(interpreter), check=False).returncode)


if __name__ == "__main__":
    main()
