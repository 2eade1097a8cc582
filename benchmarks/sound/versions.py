"""The same files in several versions of onnxruntime, each in an environment of its own, without torch.

Explainers of four kinds of network are written at opset 18 and 20. Each environment holds numpy and one onnxruntime; it
runs every file at two batch sizes (and other lengths), through `lrp_compiler.runtime` and through plain onnxruntime,
which must agree to the bit. Errors are those of runs.py: median over rows of the largest difference to float64, as
a share of the row's largest value, next to torch's own in float32; a file passes if it is at most three times that off.

Rows are kept in results/versions.json, the table in results/versions.md; environments and files in build/versions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import traceback
import venv
from pathlib import Path
from typing import Any

from benchmarks.base import processes
from benchmarks.base.places import BUILD, RESULTS

FOLDER = BUILD / "versions"
ENVIRONMENTS = {"1.19.0": "2.0.2", "1.24.4": "2.3.5", "1.32.0": "2.4.6"}
"""onnxruntime → numpy. 1.18 is the first that knows ONNX's IR version 10, 1.19 the first that runs with numpy 2."""
OPSETS = (18, 20)
MODELS = {"resnet50": None, "roberta_large": 2, "llama": 2, "flan_t5_large": 2}
"""Name in networks/architectures → layers (None: as published)."""
BATCHES = (1, 5)
"""Fresh batch sizes; the example's is 2."""
TIMES = 3
"""How far off an onnxruntime may be, in multiples of torch's own error."""
EXAMPLES = """examples:
  python -m benchmarks.sound.versions                                  everything
  python -m benchmarks.sound.versions --models llama --onnxruntime 1.19.0
"""

# ── in an environment: numpy and onnxruntime alone ───────────────────────────────────────────────────────────────────


def work(folder: Path, stems: list[str]) -> None:
    """Run these files; results go beside them, what was found out is printed as JSON, a line each."""
    import importlib.util

    import onnxruntime

    assert importlib.util.find_spec("torch") is None, "torch is in this environment"
    for stem in stems:
        try:
            failure = None
            run_file(folder / f"{stem}.onnx", folder / f"{stem}.{onnxruntime.__version__}.npz")
        except Exception as error:
            traceback.print_exc()
            failure = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(json.dumps({"file": stem, "failure": failure}), flush=True)


def run_file(path: Path, results: Path) -> None:
    import numpy as np
    import onnxruntime

    from lrp_compiler.runtime import OnnxExplainer

    inputs = np.load(path.with_suffix(".inputs.npz"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    found = {}
    with OnnxExplainer(path, session_options=options) as explainer:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        for index in range(len(BATCHES)):
            given = {key.partition(".")[2]: inputs[key] for key in inputs.files if key.startswith(f"{index}.")}
            plain = dict(zip(names, session.run(names, given), strict=True))
            target = given.pop("target")
            explained = explainer(**given, target=target)
            for name, value in explained.relevance.items():
                assert np.array_equal(value, plain[f"relevance.{name}"]), "the runtime differs from plain onnxruntime"
            found |= {f"{index}.{name}": value for name, value in plain.items()}
    np.savez(results, **found)


# ── here: files, environments, comparison ────────────────────────────────────────────────────────────────────────────


def environment(version: str) -> Path:
    """Python of the environment with that onnxruntime; made where there is none."""
    folder = FOLDER / f"onnxruntime-{version}"
    python = folder / "bin" / "python"
    mark = folder / "complete"
    if not mark.exists():
        venv.create(folder, with_pip=True, clear=True)
        packages = [f"onnxruntime=={version}", f"numpy=={ENVIRONMENTS[version]}"]
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True
        )
        mark.touch()
    return python


def write_files(name: str, folder: Path) -> dict[str, Any]:
    """The explainer's files and inputs; returns what they are to give, and what torch gives."""
    import numpy as np

    import lrp_compiler as lrp
    from benchmarks.networks.architectures import ARCHITECTURES
    from benchmarks.sound.runs import classes, explained_output, in_float64, run_explainer

    architecture = ARCHITECTURES[name]
    explainer = lrp.compile(
        architecture.build(depth=MODELS[name]),
        kwargs=architecture.inputs(2),
        composite=architecture.composite,
        target=lrp.Target("index", position=architecture.position),
        dynamic_shapes=architecture.dynamic_shapes,
    )
    fresh = [architecture.inputs(batch, which, seed=40 + which) for which, batch in enumerate(BATCHES, start=1)]
    arrays = {
        f"{index}.{key}": value.numpy()
        for index, inputs in enumerate(fresh)
        for key, value in (inputs | {"target": classes(BATCHES[index])}).items()
    }
    for opset in OPSETS:
        explainer.to_onnx(folder / f"{name}.{opset}.onnx", opset=opset)
        np.savez(folder / f"{name}.{opset}.inputs.npz", **arrays)
    output = explainer.metadata["outputs"][explained_output(explainer.metadata)]["name"]
    return {
        "output": output,
        "exact": run_explainer(explainer, fresh, in_float64),
        "torch": run_explainer(explainer, fresh),
    }


def errors(path: Path, expected: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Output and relevance: the worst by what torch is off."""
    import numpy as np
    import torch

    from benchmarks.sound.runs import median_error

    found = np.load(path)
    exact, own = expected["exact"], expected["torch"]
    run = [
        {key: torch.from_numpy(found[f"{index}.{expected['output'] if key == 'output' else key}"]) for key in exact[0]}
        for index in range(len(BATCHES))
    ]
    return {
        key: {"onnxruntime": median_error(key, run, exact), "torch": median_error(key, own, exact)} for key in exact[0]
    }


def passes(row: dict[str, Any]) -> bool:
    return "errors" in row and all(e["onnxruntime"] <= TIMES * e["torch"] for e in row["errors"].values())


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    from benchmarks.networks.architectures import ARCHITECTURES

    versions = [version for version in ENVIRONMENTS if any(version in row for row in rows.values())]
    titles = ["network", "opset", "IR", "torch", *(f"onnxruntime {version}" for version in versions)]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]

    def worst(row: dict[str, Any], who: str) -> str:
        return f"{max(error[who] for key, error in row['errors'].items() if key != 'output'):.1e}"

    def cell(row: dict[str, Any] | None) -> str:
        if row is None or "failure" in row:
            return "–" if row is None else "fails"
        return worst(row, "onnxruntime") + ("" if passes(row) else " (!)")

    for key, row in rows.items():
        name, _, opset = key.rpartition(".")
        known = [row[version] for version in versions if "errors" in row.get(version, {})]
        own = worst(known[0], "torch") if known else "–"
        cells = [ARCHITECTURES[name].title, opset, str(row["ir"]), own, *(cell(row.get(v)) for v in versions)]
        lines.append("| " + " | ".join(cells) + " |")
    done = [row[version] for row in rows.values() for version in versions if version in row]
    failures = [
        f"- {key}, onnxruntime {version}: {row[version]['failure']}"
        for key, row in rows.items()
        for version in versions
        if "failure" in row.get(version, {})
    ]
    parts = [
        "# Versions of onnxruntime",
        "Written by `python -m benchmarks.sound.versions`; its docstring says more. Median error of relevance in "
        "float32 against float64, of torch and of each onnxruntime; narrow networks, random weights.",
        "\n".join(lines),
        f"{sum(map(passes, done))} of {len(done)} runs are at most {TIMES} times as far off as torch.",
        "\n".join(failures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="NAME", default=list(MODELS), help="only these")
    parser.add_argument(
        "--onnxruntime",
        nargs="+",
        choices=ENVIRONMENTS,
        metavar="VERSION",
        default=list(ENVIRONMENTS),
        help="only these",
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, [f"{name}.{opset}" for name in options.models for opset in OPSETS])
        return

    import warnings

    import onnx

    from benchmarks.base import reporting

    warnings.filterwarnings("ignore")
    folder = FOLDER / "files"
    folder.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "versions.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    with reporting.progress(reporting.console()) as progress:
        task = progress.add_task("", total=len(options.models) * (1 + len(options.onnxruntime)))
        for name in options.models:
            progress.update(task, description=f"{name}: compile")
            expected = write_files(name, folder)
            for opset in OPSETS:
                model = onnx.load(folder / f"{name}.{opset}.onnx", load_external_data=False)
                assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
                rows.setdefault(f"{name}.{opset}", {})["ir"] = model.ir_version
            progress.advance(task)
            for version in options.onnxruntime:
                progress.update(task, description=f"{name}: onnxruntime {version}")
                python = environment(version)
                command = processes.command(
                    "benchmarks.sound.versions", "--work", folder, "--models", name, python=python
                )
                done = subprocess.run(
                    command,
                    env=processes.environment(python),
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                for line in done.stdout.splitlines():
                    message = json.loads(line)
                    found = folder / f"{message['file']}.{version}.npz"
                    rows[message["file"]][version] = (
                        {"failure": message["failure"]} if message["failure"] else {"errors": errors(found, expected)}
                    )
                progress.advance(task)
            rows = {f"{m}.{o}": rows[f"{m}.{o}"] for m in MODELS for o in OPSETS if f"{m}.{o}" in rows}
            reporting.write_rows(path, rows)
            reporting.write(path.with_suffix(".md"), markdown(rows))
    if not all(passes(rows[f"{m}.{o}"][v]) for m in options.models for o in OPSETS for v in options.onnxruntime):
        sys.exit("Some runs failed or are too far off: see results/versions.md.")


if __name__ == "__main__":
    main()
