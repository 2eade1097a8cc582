"""Models of transformers in one step: their tokenizer's batch by name, caches, masks, padding on either side."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lrp_compiler as lrp
from benchmarks.networks.architectures import draw_parameters
from lrp_compiler.base.errors import CaptureError
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(12)

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VOCABULARY, PAD = 100, 0
# class of model, of configuration, options, where in the output
NETWORKS: dict[str, tuple[str, str, dict[str, Any], str | None]] = {
    "encoder": ("BertForSequenceClassification", "BertConfig", {**SIZES, "num_labels": 5}, None),
    "relative encoder": (
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        {**SIZES, "num_labels": 5, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        None,
    ),
    "decoder": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "num_key_value_heads": 2}, "last-unpadded"),
    "both": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
        "last",
    ),
}
# Padding on the left changes the output of a model that counts positions from there, or reads its answer off the first.
CHANGED = {("encoder", "left"), ("relative encoder", "left")}
BATCHES, LENGTHS = (1, 2, 4), (9, 14, 23)


@cache
def network(name: str, **changed: Any) -> torch.nn.Module:
    import transformers

    model, config, options, _ = NETWORKS[name]
    options = options | changed
    made = getattr(transformers, model)(getattr(transformers, config)(vocab_size=VOCABULARY, **options)).eval()
    draw_parameters(made, seed=3)
    if made.get_input_embeddings().padding_idx is not None:
        with torch.no_grad():
            made.get_input_embeddings().weight[PAD] = 0
    return made


def shallow_decoder() -> torch.nn.Module:
    return network("decoder", num_hidden_layers=1)


def batch(name: str, lengths: list[int], width: int, side: str, seed: int) -> dict[str, torch.Tensor]:
    """What a tokenizer makes of sentences of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), width), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, where] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, where] = 1
    made = {"input_ids": ids, "attention_mask": mask}
    if name == "both":
        made["decoder_input_ids"] = torch.randint(3, VOCABULARY, (len(lengths), 4), generator=generator)
    return made


@pytest.fixture(scope="module")
def explainers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`explainers(name)`: the network's ONNX explainer, compiled from a batch as a tokenizer makes it."""
    folder = tmp_path_factory.mktemp("hugging_face")
    opened: dict[str, OnnxExplainer] = {}

    def open_explainer(name: str) -> OnnxExplainer:
        if name not in opened:
            example = batch(name, [6, 4], 6, "right", seed=1)
            sizes = {"batch": torch.export.Dim("batch"), "sequence": torch.export.Dim("sequence", max=64)}
            explainer = lrp.compile(
                network(name),
                kwargs=dict(example),
                composite="attnlrp",
                target=lrp.Target("index", position=NETWORKS[name][3]),
                dynamic_shapes={
                    key: {0: sizes["batch"]} | ({} if key.startswith("decoder") else {1: sizes["sequence"]})
                    for key in example
                },
            )
            explainer.to_onnx(folder / f"{name}.onnx")
            opened[name] = OnnxExplainer(folder / f"{name}.onnx")
        return opened[name]

    return open_explainer


def logits(output: Any) -> np.ndarray:
    result: np.ndarray = output["logits"] if isinstance(output, dict) else output
    return result


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_has_no_relevance_and_changes_none(name: str, side: str, explainers: Any) -> None:
    explainer = explainers(name)
    compared = rows = 0
    for number, size in enumerate(BATCHES):
        for width in LENGTHS:
            lengths = [2 + (5 * row + number + width) % (width - 1) for row in range(size)]
            inputs = batch(name, lengths, width, side, seed=10 * width + size)
            target = np.arange(size) % 5
            arrays = {key: value.numpy() for key, value in inputs.items()}
            padded = explainer(**arrays, target=target)
            relevance = padded.relevance["input_ids"]
            assert np.isfinite(relevance).all()
            assert not relevance[arrays["attention_mask"] == 0].any()
            for row, length in enumerate(lengths):
                kept = arrays["attention_mask"][row] == 1
                alone = {key: value[row : row + 1] for key, value in arrays.items()}
                for key in ("input_ids", "attention_mask"):
                    alone[key] = alone[key][:, kept]
                single = explainer(**alone, target=target[row : row + 1])
                rows += 1
                if explained_alike(name, logits(padded.output), row, kept, logits(single.output)):
                    compared += 1
                    expected = single.relevance["input_ids"][0]
                    # Another length, another order of adding up: float32 leaves up to 3e-6.
                    assert np.abs(relevance[row][kept] - expected).max() <= 1e-5 * np.abs(expected).max(), (
                        length,
                        width,
                    )
    assert compared == rows or (name, side) in CHANGED


def explained_alike(name: str, padded: np.ndarray, row: int, kept: np.ndarray, alone: np.ndarray) -> bool:
    """Whether the model's own explained output is the same with padding and without, to float32's rounding."""
    one = padded[row][kept][-1] if name == "decoder" else padded[row].reshape(-1, padded.shape[-1])[-1]
    other = alone[0].reshape(-1, alone.shape[-1])[-1]
    return bool(np.abs(one - other).max() <= 1e-5 * np.abs(other).max())


@pytest.mark.heavy
def test_a_cache_is_neither_needed_nor_in_the_way() -> None:
    """`use_cache` is on in the configuration of every decoder."""
    model = shallow_decoder()
    assert model.config.use_cache
    example = batch("decoder", [6, 4], 6, "right", seed=1)
    explainer = lrp.compile(model, kwargs=dict(example), composite="attnlrp")
    assert [entry["name"] for entry in explainer.metadata["outputs"]] == ["logits"]
    expected = model(**example, use_cache=False).logits
    # Attention that is written out sums in another order than torch's own: a few roundings of 6e-8.
    assert (explainer(**example).output.logits - expected).abs().max() < 1e-6 * expected.abs().max()
    with pytest.raises(CaptureError, match="use_cache=False"):
        lrp.compile(model, kwargs={**example, "use_cache": True})


@pytest.mark.heavy
@pytest.mark.parametrize("shapes", [None, "by name", "by position"])
def test_a_cache_goes_with_every_spelling_of_shapes(shapes: str | None) -> None:
    sizes = {0: torch.export.Dim("batch")}
    given: Any = {None: None, "by name": {"input_ids": sizes}, "by position": (sizes,)}[shapes]
    ids = batch("decoder", [6, 6], 6, "right", seed=1)["input_ids"]
    explainer = lrp.compile(shallow_decoder(), (ids,), composite="attnlrp", dynamic_shapes=given)
    rows = 2 if shapes is None else 3
    assert explainer(ids[:1].expand(rows, 6)).relevance["input_ids"].shape == (rows, 6)


def test_the_last_unpadded_position_survives_a_file(tmp_path: Path) -> None:
    example = batch("decoder", [6, 4], 6, "right", seed=1)
    target = lrp.Target("argmax", position="last-unpadded")
    explainer = lrp.compile(shallow_decoder(), kwargs=dict(example), composite="attnlrp", target=target)
    explainer.save(tmp_path / "m.lrp.pt2")
    loaded = lrp.load(tmp_path / "m.lrp.pt2")
    assert torch.equal(loaded(**example).relevance["input_ids"], explainer(**example).relevance["input_ids"])
    books = loaded.audit(**example)
    assert abs(books.error) <= 1e-9 * books.magnitude
