"""The table of torch's releases: counted from pytest's reports, and down to the lowest that the library takes."""

import json
import os
import re
from pathlib import Path

from benchmarks.base.places import ROOT
from benchmarks.sound.torch_releases import ROWS, document, newest_first, row

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="one"/>
<testcase classname="tests.a" name="two"><{two}/></testcase>
<testcase classname="tests.b" name="two"><skipped/></testcase>
</testsuite></testsuites>"""


def test_a_test_is_counted_once_as_its_newest_report_says(tmp_path: Path) -> None:
    old, new = tmp_path / "1.xml", tmp_path / "2.xml"
    old.write_text(REPORT.format(two="failure"))
    new.write_text(REPORT.format(two="properties"))
    os.utime(old, (1, 1))
    assert row([old]) == {"passed": 1, "skipped": 1, "failed": 1}
    assert row([new, old]) == {"passed": 2, "skipped": 1, "failed": 0}


def test_the_table_is_of_the_rows_the_newest_release_first() -> None:
    rows = json.loads(ROWS.read_text())
    assert newest_first(dict(reversed(rows.items()))) == rows
    assert list(newest_first({"2.9.1": {}, "2.11.0": {}})) == ["2.11.0", "2.9.1"]
    assert ROWS.with_suffix(".md").read_text() == document(rows)


def minor(pattern: str, file: str) -> tuple[int, int]:
    found = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]), int(found[2])


def test_every_minor_release_passes_from_the_lowest_that_is_asked_for_to_the_newest() -> None:
    rows = json.loads(ROWS.read_text())
    tried = {tuple(map(int, release.split(".")[:2])) for release in rows}
    everything_else = minor(r"^torch==(\d+)\.(\d+)", "constraints.txt")
    lowest = minor(r'"torch>=(\d+)\.(\d+)"', "pyproject.toml")

    assert min(tried) == lowest
    assert tried | {everything_else} == {(2, number) for number in range(lowest[1], max(tried)[1] + 1)}
    assert len(tried) >= 4
    assert not any(each["failed"] for each in rows.values())
