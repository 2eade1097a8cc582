"""The Open Inference Protocol's bytes: what is read, what is written, and what is refused with a sentence."""

import json
from typing import Any

import numpy as np
import pytest
from support.served import sentence

from lrp_compiler.base.errors import InputError
from lrp_compiler.serving.messages import Request, TooLong, read_request, write_answer
from lrp_compiler.serving.tensors import DATATYPES

X = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, -3, 4]}


def read(content: bytes, json_length: str | None, most: int = 1 << 20) -> Request:
    return read_request(content, json_length, most)


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_every_dtype_comes_and_goes_bit_for_bit(datatype: str, binary: bool) -> None:
    dtype = np.dtype(DATATYPES[datatype])
    values = np.arange(6).reshape(2, 3) % 2 if dtype.kind == "b" else np.random.default_rng(0).random((2, 3)) * 100
    array = values.astype(dtype)
    entry: dict[str, Any] = {"name": "x", "shape": [2, 3], "datatype": datatype}
    if binary:
        head = body(
            {**entry, "parameters": {"binary_data_size": array.nbytes}}, parameters={"binary_data_output": True}
        )
        request = read(head + array.tobytes(), str(len(head)))
    else:
        request = read(body({**entry, "data": array.tolist()}), None)

    assert request.inputs["x"].dtype == dtype
    np.testing.assert_array_equal(request.inputs["x"], array)

    content, headers = write_answer(request, "m", "1", {"y": array})

    length = int(headers.get("Inference-Header-Content-Length", len(content)))
    said = json.loads(content[:length])["outputs"][0]
    given = np.frombuffer(content[length:], dtype) if binary else np.array(said["data"], dtype)
    np.testing.assert_array_equal(given.reshape(said["shape"]), array)
    assert (said["name"], said["datatype"]) == ("y", datatype)


def test_data_may_be_nested_as_its_shape_is() -> None:
    nested = read(body({**X, "data": [[1, 2.5], [-3, 4]]}), None).inputs["x"]

    np.testing.assert_array_equal(nested, read(body(X), None).inputs["x"])


def test_outputs_are_chosen_one_by_one() -> None:
    outputs = [{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}]
    request = read(body(X, outputs=outputs, id="7"), None)

    content, headers = write_answer(request, "m", "1", {name: np.float32([1.5, 2]) for name in ("a", "b")})

    length = int(headers["Inference-Header-Content-Length"])
    said = json.loads(content[:length])
    assert said["id"] == "7"
    assert said["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert said["outputs"][1]["data"] == [1.5, 2]
    assert content[length:] == np.float32([1.5, 2]).tobytes()


BINARY = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("content", "length", "said"),
    [
        (b"", None, "no JSON"),
        (b"\xff", None, "no JSON"),
        (b'{"inputs": [NaN]}', None, "no JSON"),
        (b"[" * 100_000, None, "no JSON"),
        (b"[]", None, "no JSON object"),
        (b"{}", None, "inputs are no list"),
        (b'{"inputs": [1]}', None, "inputs are no list"),
        (body({**X, "name": 3}), None, "with a name each"),
        (body(X, X), None, "'x' is given twice"),
        (body(X, id=7), None, "id is no text"),
        (body(X, parameters=[1]), None, "parameters that are no object"),
        (body(X, parameters={"sequence_id": 3}), None, "the parameter sequence_id"),
        (body(X, outputs=[{"name": "y", "parameters": {"classification": 2}}]), None, "parameter classification"),
        (body({**X, "parameters": {"shared_memory_region": "a"}}), None, "parameter shared_memory_region"),
        (body({**X, "datatype": "BYTES"}), None, "datatype 'BYTES': it is one of"),
        (body({**X, "datatype": ["FP32"]}), None, "datatype"),
        (body({**X, "shape": "2"}), None, "shape '2'"),
        (body({**X, "shape": [-2, -2]}), None, "whole numbers from 0 up"),
        (body({**X, "shape": [True, 4]}), None, "whole numbers from 0 up"),
        (body({**X, "shape": [2, 3]}), None, "4 elements, but its shape makes 6"),
        (body({**X, "shape": [4], "data": [[1, 2], [3, 4]]}), None, "nested as [2, 2], but its shape is [4]"),
        (body({**X, "data": [[1, 2, 3], [4]]}), None, "cannot be read as an array"),
        (body({**X, "data": ["1", "2", "3", "4"]}), None, "elements that are no FP32"),
        (body({**X, "data": [None, 2, 3, 4]}), None, "elements that are no FP32"),
        (body({**X, "data": [1, 2, 3, 1e39]}), None, "out of range for FP32"),
        (body({**X, "data": {}}), None, "has no data"),
        (body({**X, "datatype": "INT64", "data": [1, 2, 3, 4.5]}), None, "elements that are no INT64"),
        (body({**X, "datatype": "INT8", "data": [1, 2, 3, 128]}), None, "out of range for INT8"),
        (body({**X, "datatype": "UINT64", "data": [1, 2, 3, -4]}), None, "out of range for UINT64"),
        (body({**X, "datatype": "BOOL"}), None, "elements that are no BOOL"),
        (body({**BINARY, "shape": [3]}) + bytes(8), None, "no JSON"),
        (body(BINARY) + bytes(8), "99999999999999999999999", "but the body has"),
        (body(BINARY) + bytes(8), "-1", "but the body has"),
        (body(BINARY), str(len(body(BINARY))), "binary_data_size 8, but 0 bytes are there"),
        (body(BINARY) + bytes(9), str(len(body(BINARY))), "1 byte behind the JSON"),
        (body({**BINARY, "shape": [3]}) + bytes(8), str(len(body(BINARY))), "but its shape and datatype make 12"),
    ],
)
def test_what_is_not_as_the_protocol_says_is_one_sentence(content: bytes, length: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("[", r"\[")) as error:
        read(content, length)

    sentence(str(error.value))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_json_has_no_word_for_is_given_as_binary_data_alone(value: float) -> None:
    results = {"y": np.float32([1, value])}
    with pytest.raises(InputError, match="JSON has no NaN and no infinity: ask for it as binary data"):
        write_answer(read(body(X), None), "m", "1", results)

    content, _ = write_answer(read(body(X, parameters={"binary_data_output": True}), None), "m", "1", results)

    assert content.endswith(results["y"].tobytes())


def test_json_that_others_would_wait_for_is_refused_and_binary_data_is_none() -> None:
    array = np.ones(1000, np.float32)
    entry = {"name": "x", "shape": [1000], "datatype": "FP32"}
    text = body({**entry, "data": array.tolist()})
    head = body({**entry, "parameters": {"binary_data_size": array.nbytes}})

    with pytest.raises(TooLong) as caught:
        read(text, None, len(text) - 1)

    said = sentence(str(caught.value))
    assert f"JSON has {len(text)} bytes, and at most {len(text) - 1}" in said
    assert "binary data" in said
    for content, length in ((text, None), (head + array.tobytes(), str(len(head)))):
        np.testing.assert_array_equal(read(content, length, len(text)).inputs["x"], array)
    assert len(read(head + array.tobytes(), str(len(head)), len(head)).inputs) == 1
