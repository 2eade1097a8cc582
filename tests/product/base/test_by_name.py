"""What an explanation has by name says which names there are."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.explanations import images, made

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import ByName


def test_a_missing_name_is_one_sentence_and_a_key_error() -> None:
    relevance = made({"input": images()}).relevance

    for kind in (KeyError, InputError, lrp.LrpError):
        with pytest.raises(kind) as error:
            _ = relevance["x"]
        assert str(error.value) == "There is no 'x' here: the name is 'input'."
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({}, "There is no 'inptu_ids' here: there are no names at all."),
        (
            {"input_ids": 1, "mask": 2},
            "There is no 'inptu_ids' here (did you mean 'input_ids'?): the names are 'input_ids', 'mask'.",
        ),
    ],
)
def test_the_names_are_listed(names: dict[str, int], sentence: str) -> None:
    with pytest.raises(KeyError) as error:
        _ = ByName(names)["inptu_ids"]
    assert str(error.value) == sentence


def test_else_it_is_a_dict() -> None:
    explanation = made({"input": images()})
    relevance = explanation.relevance

    assert isinstance(relevance, dict)
    assert relevance == {"input": relevance["input"]}
    assert "x" not in relevance
    assert relevance.get("x") is None
    assert repr(ByName({"a": 1})) == "{'a': 1}"
    again = pickle.loads(pickle.dumps(ByName({"a": 1})))
    assert (again, type(again)) == ({"a": 1}, ByName)
    for other in (explanation.to_numpy(), replace(explanation, relevance={"y": relevance["input"]})):
        with pytest.raises(KeyError, match="There is no 'x' here"):
            _ = other.relevance["x"]


def test_it_is_what_torch_and_onnxruntime_return(tmp_path) -> None:
    model, x = torch.nn.Linear(3, 2).eval(), torch.randn(2, 3)
    explainer = lrp.compile(model, (x,))
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    with lrp.OnnxExplainer(tmp_path / "m.lrp.onnx") as onnx:
        for explanation in (explainer(x), onnx(x.numpy())):
            for part in (explanation.relevance, explanation.sums, explanation.coefficients, explanation.aggregate):
                with pytest.raises(KeyError, match="There is no 'x' here"):
                    _ = part["x"]
            assert np.shape(explanation.relevance["input"]) == (2, 3)
