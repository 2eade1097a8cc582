"""Small files that claim much: they are refused before anything of that size is made."""

import io
import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.artefacts import tiny
from support.sealed import reseal_zip
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError

Members = dict[str, bytes]
HUGE = 10**12


def rewritten(path: Path, change: Callable[[Members], None], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return reseal_zip(path)


def claims(sizes: list[int], strides: list[int], stored: bytes | None = None) -> Callable[[Members], None]:
    """The first weight is said to have this shape; `stored`: what there is of it."""

    def change(members: Members) -> None:
        name = "archive/data/weights/model_weights_config.json"
        config = json.loads(members[name])
        entry = next(iter(config["config"].values()))
        entry["tensor_meta"]["sizes"] = [{"as_int": size} for size in sizes]
        entry["tensor_meta"]["strides"] = [{"as_int": stride} for stride in strides]
        members[name] = json.dumps(config).encode()
        if stored is not None:
            members[f"archive/data/weights/{entry['path_name']}"] = stored

    return change


def padded(members: Members) -> None:
    """Two hundred megabytes of zeros, which pack well."""
    members["archive/extra/more"] = b"\0" * 200_000_000


def padded_samples(members: Members) -> None:
    """The same in the archive inside the archive."""
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * 200_000_000)
    members["archive/data/sample_inputs/model.pt"] = inside.getvalue()


CASES: dict[str, tuple[Callable[[Members], None], int]] = {
    "nothing is stored": (claims([HUGE], [1], b""), zipfile.ZIP_STORED),
    "one value stands for all": (claims([HUGE], [0]), zipfile.ZIP_STORED),
    "several dims": (claims([10**4, 10**4, 10**4], [0, 0, 0]), zipfile.ZIP_STORED),
    "packed": (padded, zipfile.ZIP_DEFLATED),
    "packed inside": (padded_samples, zipfile.ZIP_STORED),
}


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reader", [lrp.load, lrp.compile], ids=["load", "compile"])
def test_what_claims_too_much_is_refused_before_it_is_made(
    name: str, reader: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "m.lrp.pt2"
    tiny().save(path)
    rewritten(path, *CASES[name])
    assert path.stat().st_size < 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(FormatError, match="is damaged, or made to fill the memory") as raised:
        reader(path)

    assert "\n" not in str(raised.value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"{grown} kB"


class Expanded(nn.Module):
    """A mask of which a few values are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 1]).expand(500, 500, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.l(x * self.mask[: x.shape[0], 0])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_takes_its_place_is_read(packing: int, tmp_path: Path) -> None:
    """Expanded buffers, and files that were packed anew."""
    x = torch.randn(2, 4)
    explainer = lrp.compile(Expanded().eval(), (x,))
    explainer.save(tmp_path / "m.lrp.pt2")
    rewritten(tmp_path / "m.lrp.pt2", lambda members: None, packing)
    assert torch.equal(lrp.load(tmp_path / "m.lrp.pt2")(x).relevance["x"], explainer(x).relevance["x"])
