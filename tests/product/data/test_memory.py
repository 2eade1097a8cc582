"""Memory does not grow with the data."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import of_pictures, started

ROWS, PIECE = 200_000, 4000


def made(folder: Path, ending: str) -> Path:
    """200,000 rows of 1,152 bytes."""
    path = folder / f"data.{ending}"
    chance = np.random.default_rng(0)
    x = chance.standard_normal((ROWS, 3, 8, 12), np.float32)
    if ending == "npy":
        np.save(path, x)
    else:
        pq.write_table(pa.table({"input": pa.FixedShapeTensorArray.from_numpy_ndarray(x)}), path, row_group_size=50_000)
    return path


@pytest.mark.heavy
@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_memory_stays_flat_over_two_hundred_thousand_rows(ending: str, tmp_path: Path) -> None:
    """What is kept of each row would be 11 MB and more for every 10,000."""
    explainer, data, output = of_pictures(tmp_path / "p.lrp.onnx"), made(tmp_path, ending), tmp_path / "out"
    process = started(tmp_path, str(explainer), str(data), str(output), str(PIECE), "1")
    seen = []
    while process.poll() is None:
        done = PIECE * len([*(output / "relevance.parquet").glob("part-*")])
        status = Path(f"/proc/{process.pid}/statm").read_text().split()
        if status and int(status[1]):
            seen.append((done, int(status[1]) * 4096 / 1e6))
        time.sleep(0.1)

    assert process.returncode == 0
    rows, megabytes = np.array([one for one in seen if one[0] >= ROWS // 5]).T
    slope = np.polyfit(rows / 10_000, megabytes, 1)[0]
    print(f"{ending}: {megabytes.min():.0f} to {megabytes.max():.0f} MB, {slope:+.2f} MB per 10,000 rows")
    assert slope < 1
