"""The benchmark of speed: what it counts, how it talks to its workers, and the tables it makes of fixed rows."""

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.speed import files as speed_files
from benchmarks.speed import measure as speed_measure
from benchmarks.speed import profile as speed_profile
from benchmarks.speed import run as speed
from benchmarks.speed import table as speed_table
from benchmarks.speed.cases import CASES, CONTENDERS, SERIES, Case
from benchmarks.speed.floor import Count, count
from benchmarks.speed.worker import Worker, WorkerError

# ── floors, counted by hand ──────────────────────────────────────────────────────────────────────────────────────────


class Convolutional(nn.Module):
    """Images 3 × 6 × 6: 8 and 16 maps, 3 × 3 with padding, then 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.classes = nn.Linear(16 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.second(self.first(x).relu()).relu().flatten(1))


FIRST, SECOND, CLASSES = 8 * 36 * 27, 16 * 36 * 72, 16 * 36 * 10
"""Multiplications of one image: outputs × products that make each."""


def counted(model: nn.Module, x: Tensor, composite: Any) -> Count:
    batch = torch.export.Dim("batch")
    return count(lrp.compile(model.eval(), (x,), composite=composite, dynamic_shapes=({0: batch},)).forward)


@pytest.mark.parametrize(
    ("composite", "first", "second"),
    [
        pytest.param("epsilon", 2, 2, marks=pytest.mark.heavy),
        ("epsilon-plus", 5, 3),  # 27 products an output: both signs of signed pixels apart; then inputs ≥ 0
        pytest.param("epsilon-plus-flat", 2, 3, marks=pytest.mark.heavy),
        pytest.param("epsilon-alpha2-beta1", 5, 4, marks=pytest.mark.heavy),
        (lrp.composites.epsilon_gamma_box(-3.0, 3.0), 4, 3),  # between ReLUs γ needs one denominator, one transpose
    ],
)
def test_the_floor_is_the_mean_of_products_weighed_by_multiplications(composite: Any, first: int, second: int) -> None:
    found = counted(Convolutional(), torch.randn(2, 3, 6, 6), composite)

    total = FIRST + SECOND + CLASSES
    # The logits' own map is transposed on a one-hot vector: a row, no product.
    assert found.floor == pytest.approx((first * FIRST + second * SECOND + 1 * CLASSES) / total)
    assert found.multiplications == 2 * total
    assert sum(found.products.values()) == pytest.approx(1)


class Attention(nn.Module):
    """One head over 5 positions of 8 features; a constant mixes positions of what no relevance reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.classes = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2)
        return self.classes((scores.softmax(-1) @ self.value(x)).mean(1))


def test_a_product_of_two_activations_has_two_transposes() -> None:
    found = counted(Attention(), torch.randn(2, 5, 8), "attnlrp")

    dense, products, classes = 3 * 5 * 8 * 8, 2 * 5 * 5 * 8, 8 * 4
    assert found.multiplications == 2 * (dense + products + classes)
    assert found.floor == pytest.approx((2 * dense + 3 * products + classes) / (dense + products + classes))


def test_what_no_relevance_reaches_costs_its_forward_alone() -> None:
    found = counted(Attention(), torch.randn(2, 5, 8), "cp-lrp")

    # The pattern is held fixed: queries, keys and their product get nothing, the other product has one weight.
    held, dense, product, classes = 2 * 5 * 8 * 8 + 5 * 5 * 8, 5 * 8 * 8, 5 * 5 * 8, 8 * 4
    total = held + dense + product + classes
    assert found.floor == pytest.approx((held + 2 * dense + 2 * product + classes) / total)


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CHILD = """
import sys, time
from pathlib import Path
from benchmarks.speed.worker import serve

def make():
    print("a library talks to stdout")
    if "broken" in sys.argv:
        raise ValueError("no such network")
    return run

def run(inputs):
    print("and again")
    if inputs["x"].shape[0] == 3:
        raise MemoryError("no room for 3")
    if inputs["x"].shape[0] == 4:
        sys.exit(7)
    if inputs["x"].shape[0] == 5:
        time.sleep(30)
    return 2 * inputs["x"]

serve(make, Path(sys.argv[1]))
"""


def child(folder: Path, *more: str) -> Worker:
    for batch in range(1, 6):
        np.savez(folder / f"inputs.{batch}.npz", x=np.ones((batch, 2), np.float32))
    return Worker([sys.executable, "-c", CHILD, str(folder), *more], folder / "log" / "child.log", threads=1)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = child(tmp_path)
    yield made
    made.close()


def test_a_worker_runs_when_it_is_told_to(worker: Worker, tmp_path: Path) -> None:
    resident = worker.ask("rest")["resident"]
    took = worker.ask("run", batch=2)
    worker.ask("save", batch=2, path=str(tmp_path / "found.npy"))

    assert 0 < took["seconds"] < 5
    assert 0 <= took["cpu"] < 5
    assert worker.ask("peak")["peak"] >= 0.9 * resident > 5
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), np.full((2, 2), 2, np.float32))


def test_what_fails_is_said_and_the_worker_lives_on(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="MemoryError: no room for 3"):
        worker.ask("run", batch=3)

    assert worker.ask("run", batch=1)["seconds"] > 0


def test_a_worker_that_ends_or_hangs_is_a_failure(tmp_path: Path) -> None:
    dying, hanging = child(tmp_path), child(tmp_path)
    hanging.timeout = 0.5

    with pytest.raises(WorkerError, match="the process ended with 7"):
        dying.ask("run", batch=4)
    with pytest.raises(WorkerError, match=r"no answer after 0\.5 s"):
        hanging.ask("run", batch=5)
    with pytest.raises(WorkerError, match="ValueError: no such network"):
        child(tmp_path, "broken")
    for made in (dying, hanging):
        made.close()


class Recorded:
    """Stands for a worker: takes as long as it is told to, and writes down when it was asked."""

    process = argparse.Namespace(pid=0)

    def __init__(self, name: str, seconds: list[float], record: list[str], fails: bool = False) -> None:
        self.name, self.seconds, self.record, self.fails = name, iter(seconds), record, fails

    def ask(self, do: str, **arguments: Any) -> dict[str, float]:
        if do != "run":
            return {"peak": 12.0, "resident": 10.0}
        self.record.append(self.name)
        if self.fails:
            raise WorkerError("out of memory")
        seconds = next(self.seconds)
        return {"seconds": seconds, "cpu": 2 * seconds}


def test_runs_alternate_and_who_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_measure, "PAUSE", 0.0)
    record: list[str] = []
    workers: Any = {
        "forward": Recorded("A", [9, 9, 1, 2, 3], record),
        "explainer": Recorded("B", [9, 9, 3, 5, 4], record),
        "zennit": Recorded("C", [], record, fails=True),
    }

    found = speed_measure.side_by_side(workers, batch=1, runs=3)["contenders"]

    assert "".join(record) == "AA" + "BB" + "C" + "AB" * 3
    assert found["zennit"] == {"failure": "out of memory"}
    assert found["explainer"] == {
        "seconds": 4, "quartiles": [3.5, 4.5], "runs": 3, "cpu": 2.0, "forward": 2, "ratio": 2.0, "peak": 12.0,
        "resident": 10.0,
    }  # fmt: skip


def test_a_batch_that_has_no_room_is_left_out_and_says_so() -> None:
    rows = {
        "forward": {"resident": 500.0, "peak": 600.0},
        "explainer": {"resident": 500.0, "peak": 1500.0},
        "zennit": {"resident": 500.0, "peak": 2500.0},
        "lxt": {"failure": "it did not start"},
    }

    left_out = speed_measure.too_large(rows, times=8, free=20_000)

    # 0.8 and 8 GB are taken, 11.2 are left.
    assert left_out == {"zennit": "left out: it would take about 16 GB more, and 11 GB are free"}


# ── rows and tables ──────────────────────────────────────────────────────────────────────────────────────────────────


def measured(seconds: float, ratio: float, **more: Any) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "quartiles": [seconds, 1.02 * seconds],
        "runs": 9,
        "cpu": 1.9,
        "forward": 0.1,
        "ratio": ratio,
    } | more


FOUND: dict[str, Any] = {
    "machine": {"cpu": "A CPU", "cores": 2, "memory_gb": 25, "versions": {"torch": "2.13.0"}},
    "files": {
        "vgg16-epsilon": {
            "seconds": {"compile": 4.0, "onnx": 2.5, "plain": 1.0},
            "megabytes": {"forward": 500.0, "explainer": 510.0, "small": 505.0},
            "floor": 1.99,
            "nodes": [70, 264],
        }
    },
    "rows": {
        "vgg16-epsilon": {
            "2x1": {
                "date": "2026-01-02",
                "others": 0.5,
                "load": 2.5,
                "contenders": {
                    "forward": measured(0.1, 1.0, peak=600.0),
                    "explainer": measured(0.21, 2.1, peak=1500.0),
                    "small": measured(0.3, 3.0, peak=900.0, cosine=1.0),
                    "gradient": measured(0.315, 3.15, peak=1000.0),
                    # Measured when the machine was half as fast: its ratio is to the forward of then.
                    "zennit": measured(0.882, 4.41, peak=1200.0, cosine=0.99999, forward=0.2),
                    "autolrp": {"failure": "ValueError: no rule"},
                },
            }
        }
    },
    "scaling": {
        "vgg16-batch": {
            "points": {"1": {"forward": 0.1, "explainer": 0.2}, "2": {"forward": 0.2, "explainer": 0.4}},
            "fits": {who: {"start": 0.0, "slope": 0.1, "r2": 1.0, "exponent": 1.0} for who in ("forward", "explainer")},
        }
    },
}


def test_a_row_states_target_ratio_floor_and_how_much_slower_each_peer_is() -> None:
    text = speed_table.markdown(FOUND)

    row = next(line for line in text.splitlines() if line.startswith("| VGG16 `epsilon` | ≤ 2.1"))
    # Peers: 3.15 / 2.1, 4.41 / 2.1; PyTorch's forward and LXT were not measured.
    cells = ["≤ 2.1", "2.10", "2%", "1.99", "100", "210", "–", "1.5×", "2.1× (≥ 2.2)", "–", "fails", "no (noisy)"]
    assert row.removesuffix(" |").split(" | ")[1:] == cells
    assert "882 [882–900] ÷ 200 = 4.41" in text
    assert "| 1.020 | 1.010 | 6.5 | 1.0 | 264 |" in text
    assert "autoLRP (2 threads, batch 1): ValueError: no rule" in text
    assert "cosine to our relevance: onnxruntime, explainer, `small` profile 1.0000, Zennit 1.0000." in text
    assert "Noisy: VGG16 `epsilon`, 2 threads, batch 1: other processes took 0.50 cores" in text
    assert "0.0 + 100.00 · batch" in text
    assert "A CPU, 2 cores, 25 GB, 2026-01-02; torch 2.13.0" in text


def test_a_target_is_met_if_ratio_and_peers_are() -> None:
    found = copy.deepcopy(FOUND)
    found["rows"]["vgg16-epsilon"]["2x1"]["contenders"]["zennit"]["ratio"] = 4.62 + 1e-9
    found["rows"]["vgg16-epsilon"]["2x1"]["others"] = 0.05

    assert "| 2.2× (≥ 2.2) | – | fails | yes |" in speed_table.markdown(found)


def test_a_target_that_was_not_met_says_what_stops_it_and_what_was_tried() -> None:
    found = copy.deepcopy(FOUND)
    found["rows"]["vgg16-epsilon"]["2x1"]["contenders"]["explainer"]["ratio"] = 2.5
    profile = {
        "forward": {"ops": {"Conv": [80.0, 13], "Relu": [20.0, 13]}},
        "explainer": {
            "ops": {"Conv": [150.0, 26], "ConvTranspose": [10.0, 1], "Mul": [20.0, 20], "ReorderInput": [20.0, 9]},
            "rules": {"epsilon": 10.0, "identity": 2.0, "route": 5.0},
        },
    }

    text = speed_table.markdown(found, {"vgg16-epsilon": profile})

    assert (
        "VGG16 `epsilon`: 2.50 forwards instead of 2.1. Products alone take 2.00 × the forward's, the runtime's" in text
    )
    assert "changes of layout around them 0.20 forwards, the rules' own arithmetic 0.12, all else 0.08." in text
    assert "The floor is 2.20: products and layout" in text
    profile["explainer"]["ops"] = {"Conv": [160.0, 26], "Mul": [20.0, 20], "ReorderInput": [5.0, 9]}
    assert "The floor is 2.17: products, layout and the" in speed_table.markdown(found, {"vgg16-epsilon": profile})
    assert "Zennit takes 4.41 forwards: to be 2.2 times as fast is to explain in 2.00, and" in text
    assert "(VGG16 `epsilon`)" in text
    # 900 MB are less than the peers' 1,000 and 1,200.
    assert "MB; smaller" not in text
    found["rows"]["vgg16-epsilon"]["2x1"]["contenders"]["gradient"]["peak"] = 850.0
    assert "peak is 900 MB; smaller: gradient × input 850." in speed_table.markdown(found)
    # 2.10 forwards are what was asked for; Zennit, 2.1 times as slow, is not as slow as was asked for.
    assert "instead of" not in speed_table.markdown(FOUND)
    assert "What stops the others" in speed_table.markdown(FOUND)


def test_the_readme_changes_between_its_marks_alone() -> None:
    start, end = speed_table.MARKS
    readme = f"before\n\n{start}\n\nold\n\n{end}\n\nafter\n"

    made = speed_table.with_summary(readme, FOUND)

    assert made.startswith(f"before\n\n{start}\n\n| case |")
    assert made.endswith(f"\n\n{end}\n\nafter\n")
    assert "| VGG16 `epsilon` | 2.10 (noisy) | ≤ 2.1 | 1.99 | 210 ÷ 100 | 2.1× (≥ 2.2) |" in made
    assert "old" not in made
    assert speed_table.with_summary(made, FOUND) == made
    assert speed_table.with_summary("no marks\n", FOUND) == "no marks\n"


def test_only_what_is_missing_is_measured_and_other_contenders_rows_stay() -> None:
    asked = {"cases": None, "threads": [2, 1], "batches": [1, 8], "peers": ["zennit"], "optional": []}
    options = argparse.Namespace(**asked)
    found = copy.deepcopy(FOUND)
    rows = found["rows"]["vgg16-epsilon"]
    rows["2x1"]["contenders"]["torch-explainer"] = measured(0.4, 4.0)

    assert speed.missing(CASES["vgg16-epsilon"], options, found) == [(2, 8), (1, 1), (1, 8)]
    assert speed.missing(CASES["llama-attnlrp"], options, found) == [(2, 1), (1, 1)]

    speed.merge(rows, "2x1", {"others": 0.0, "load": 1.0, "contenders": {"zennit": measured(0.5, 5.0)}})
    assert rows["2x1"]["contenders"]["zennit"]["ratio"] == 5.0
    assert rows["2x1"]["contenders"]["explainer"]["ratio"] == 2.1
    assert rows["2x1"]["others"] == 0.0


def test_contenders_are_those_that_have_the_composite_and_the_network() -> None:
    options = argparse.Namespace(peers=["zennit", "lxt"], optional=[])

    own = ["forward", "explainer", "small", "torch-explainer"]
    assert speed.contenders(CASES["vgg16-gamma-box"], options) == [*own, "zennit"]
    assert speed.contenders(CASES["llama-attnlrp"], options) == [*own, "lxt"]
    assert speed.contenders(CASES["mamba-cp-lrp"], options) == own
    assert all(set(case.faster) <= set(CONTENDERS) for case in CASES.values())


def test_fits_find_a_line_and_an_exponent() -> None:
    line = speed.fit((1, 2, 4), [5.0, 7.0, 11.0])
    square = speed.fit((1, 2, 4), [3.0, 12.0, 48.0])

    assert (line["start"], line["slope"], line["r2"]) == pytest.approx((3, 2, 1))
    assert square["exponent"] == pytest.approx(2)
    assert [SERIES["roberta-layers"].case(6)[0].network, SERIES["vgg16-batch"].case(4)[1]] == [
        "roberta_large/depth=6,sequence=128",
        4,
    ]


@pytest.mark.heavy
def test_contenders_of_a_small_network_are_measured_side_by_side() -> None:
    case = Case("test-image", "", "vgg16/width=16", "epsilon-plus", batches=(1, 3))
    names = ("forward", "explainer", "small", "torch-explainer", "torch-forward", "gradient", "zennit")

    with speed_files.prepared(Case.from_dict(json.loads(json.dumps(case.to_dict())))) as (folder, made):
        found = speed_measure.measure(case, folder, names, threads=1, batches=case.batches, runs=3)

    assert 3 < made["floor"] < 3.3  # the narrow first layer is signed
    for batch in case.batches:
        rows = found[batch]["contenders"]
        assert set(rows) == set(names)
        assert all(row["runs"] == 3 and row["peak"] > 10 for row in rows.values())
    assert found[1]["contenders"]["zennit"]["cosine"] == pytest.approx(1, abs=1e-5)
    assert found[1]["contenders"]["torch-explainer"]["cosine"] == pytest.approx(1, abs=1e-5)
    assert not (speed_files.FOLDER / case.name).exists()


# ── profiles ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_profile_says_what_is_not_a_product() -> None:
    forward = {"run": 11.0, "ops": {"Conv": [9.0, 2], "Relu": [1.0, 1]}}
    explainer = {"run": 30.0, "ops": {"Conv": [18.0, 4], "Mul": [6.0, 3], "Cast": [0.1, 1]}}

    text = speed_profile.section("vgg16-epsilon", {"forward": forward, "explainer": explainer})

    assert "| Mul | 0.0 | 0 | 6.0 | 3 |" in text
    assert "| others | 1.0 | 1 | 0.1 | 1 |" in text
    assert "| **all** | 10.0 | 3 | 24.1 | 8 |" in text
    assert "Products alone: 2.00 × the forward's; the runtime's changes of layout around them: 0.00 forwards" in text
    assert "all else: 0.61." in text
    assert "11.0 and 30.0 ms, 2.73 forwards" in text
