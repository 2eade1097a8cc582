"""Sparse autoencoders of SAELens, as that library saves and loads them, spliced into a transformer.

    python -m benchmarks.sound.autoencoders

Of each architecture of the library one with random weights (64 features for a width of 16, with and without the
decoder's bias taken off first) is written by `save_model`, read by `load_from_disk` and spliced in behind a block of a
small encoder, float64: how far the output lies from the model's, and the relevance of features and error from that of
the block's value, both as shares of the largest. The table goes to results/autoencoders.md. SAELens (extra `sae`)
is installed into an environment of its own, build/sae.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.base import beside, reporting
from benchmarks.base.places import ROOT

RESULTS = Path(__file__).resolve().parent / "results"
WIDTH, FEATURES = 16, 64
KINDS = {"Standard": {}, "Gated": {}, "JumpReLU": {}, "TopK": {"k": 8}}


def measure(kind: str, centred: bool, folder: Path) -> dict[str, Any]:
    """One autoencoder."""
    import sae_lens
    import torch
    from torch import Tensor, nn

    import lrp_compiler as lrp

    class Model(nn.Module):
        """An encoder of two layers, and two classes."""

        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x).mean(1))

    torch.manual_seed(0)
    model, x = Model().double().eval(), torch.randn(3, 7, WIDTH, dtype=torch.float64)
    options = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float64", "apply_b_dec_to_input": centred, **KINDS[kind]}
    made = getattr(sae_lens, f"{kind}SAE")(getattr(sae_lens, f"{kind}SAEConfig")(**options))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.copy_(torch.rand_like(weight) / 5 if name == "threshold" else torch.randn_like(weight) / 3)
    made.save_model(str(folder))
    read = type(made).load_from_disk(str(folder)).eval()
    path = "encoder.layers.0"
    parts = [f"{path}.features", f"{path}.remainder"]
    explainer = lrp.compile(model, (x,), target=1, composite="attnlrp", splice={path: read}, observe=[path, *parts])
    found = explainer(x)
    with torch.no_grad():
        output = model(x)
    whole = found.relevance[path].flatten(1).sum(1)
    added = sum(found.relevance[part].flatten(1).sum(1) for part in parts)
    return {
        "output_off": float((found.output - output).abs().max() / output.abs().max()),
        "relevance_off": float((added - whole).abs().max() / whole.abs().max()),
        "features": float((found.relevance[parts[0]] != 0).double().mean() * FEATURES),
        "version": sae_lens.__version__,
    }


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table."""
    (version,) = {row["version"] for row in rows.values()}
    lines = [
        "# Autoencoders of SAELens",
        "",
        "Written by `python -m benchmarks.sound.autoencoders`; its docstring says what is measured. "
        f"SAELens {version}. *Features*: with relevance, of {FEATURES}, mean over tokens.",
        "",
        "| architecture | output, off the model's | features + error, off the value's relevance | features |",
        "|---|---:|---:|---:|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['output_off']:.0e} | {row['relevance_off']:.0e} | {row['features']:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    if not parser.parse_args().here:
        return subprocess.run(
            [beside.with_extra("sae"), "-m", "benchmarks.sound.autoencoders", "--here"], cwd=ROOT
        ).returncode
    warnings.filterwarnings("ignore")
    import benchmarks.networks.torchvision_operators  # noqa: F401 (an index's torchvision beside a CPU build of torch)

    rows = {}
    for kind in KINDS:
        for centred in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                rows[f"{kind}{', bias taken off' if centred else ''}"] = measure(kind, centred, Path(folder))
    reporting.write(RESULTS / "autoencoders.md", markdown(rows))
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
