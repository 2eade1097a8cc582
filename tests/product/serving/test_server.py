"""`lrp-compiler serve`: a real process, spoken to by Triton's own client and by plain HTTP, and stopped under load."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.data_sets import of_rows, rows
from support.hand_made import doubler, entry, metadata_of, model_bytes
from support.served import WITHOUT, Served, array, sentence, served, tensor

from lrp_compiler.cli import main
from lrp_compiler.runtime import OnnxExplainer

LARGE, JSON = 200_000, 100_000
"""Bytes that a body may have."""


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_rows(tmp_path_factory.mktemp("served") / "rows.lrp.onnx", target="index")


@pytest.fixture(scope="module")
def server(explainer: Path) -> Iterator[Served]:
    limits = ["--max-body", str(LARGE / 1e6), "--max-json", str(JSON / 1e6), "--timeout", "1", "--max-rows", "8"]
    with served(explainer, *limits) as running:
        yield running


def asked(x: np.ndarray, target: int, **more: Any) -> dict[str, Any]:
    return {"inputs": [tensor("input", x), tensor("target", np.full(len(x), target), "INT64")], **more}


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_tritons_client_gets_what_python_gets(binary: bool, server: Served, explainer: Path) -> None:
    client = pytest.importorskip("tritonclient.http")
    triton = client.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("rows")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    about = triton.get_model_metadata("rows", "1")
    assert [(entry["name"], entry["shape"]) for entry in about["inputs"]] == [("input", [-1, 2, 3]), ("target", [-1])]
    values = {"input": rows(3), "target": np.array([2, 0, 1])}
    kinds = {"input": "FP32", "target": "INT64"}
    inputs = [client.InferInput(name, value.shape, kinds[name]) for name, value in values.items()]
    for given, value in zip(inputs, values.values(), strict=True):
        given.set_data_from_numpy(value, binary_data=binary)
    chosen = [client.InferRequestedOutput(name, binary_data=binary) for name in ("relevance.input", "output")]

    answer = triton.infer("rows", inputs, outputs=chosen, request_id="one")

    assert answer.get_response()["id"] == "one"
    with OnnxExplainer(explainer) as alone:
        wanted = alone(values["input"], target=values["target"])
    np.testing.assert_array_equal(answer.as_numpy("relevance.input"), wanted.relevance["input"])
    np.testing.assert_array_equal(answer.as_numpy("output"), wanted.output)
    with pytest.raises(client.InferenceServerException, match="The target is missing"):
        triton.infer("rows", inputs[:1])
    triton.close()


def test_clients_at_once_get_their_own(server: Served, explainer: Path) -> None:
    def ask(seed: int) -> bool:
        x = rows(1 + seed % 5, seed)
        status, answer = server.ask("POST", server.infer, asked(x, seed % 3))
        assert status == 200
        wanted = alone(x, target=seed % 3).relevance["input"]
        # Sums of at most six products, in another order than alone.
        return bool(np.abs(array(answer, "relevance.input") - wanted).max() <= 8 * 6e-8 * np.abs(wanted).max())

    with OnnxExplainer(explainer) as alone, ThreadPoolExecutor(16) as clients:
        assert all(clients.map(ask, range(200)))
    _, text = server.ask("GET", "/metrics")
    counted = {line.split()[0]: float(line.split()[1]) for line in text.decode().splitlines() if line[0] != "#"}
    assert counted['lrp_requests_total{code="200"}'] >= 200
    assert counted["lrp_batch_rows_count"] < counted["lrp_request_seconds_count"]  # some ran together
    assert counted["lrp_requests_waiting"] == 0


def test_what_is_wrong_with_a_request_is_said_in_a_sentence(server: Served) -> None:
    good = asked(rows(1), 1)

    assert server.refused(b"{")[0] == 400
    for path in ("/v2/models/other/infer", "/v2/models/rows/versions/2/infer", "/v2/nothing"):
        assert server.refused(good, path)[0] == 404
    assert server.refused(None, server.infer, "GET")[0] == 405
    assert server.refused({"inputs": good["inputs"][:1]})[0] == 400
    assert server.refused(asked(rows(1), 7)) == (400, "Target 7 is out of range: the model has 3 classes, 0 to 2.")
    assert server.refused(asked(rows(9), 1))[0] == 400  # eight at a time
    assert server.refused(json.dumps(good).encode(), Content_Encoding="gzip")[0] == 415
    assert server.ask("POST", server.infer, good)[0] == 200


@pytest.mark.parametrize("declared", [True, False], ids=["said", "in pieces"])
def test_a_body_that_is_too_large_is_refused(declared: bool, server: Served) -> None:
    connection = server.connection()
    pieces = [b" " * 50_000] * 8
    if declared:
        connection.request("POST", server.infer, b"".join(pieces))
    else:
        connection.request("POST", server.infer, iter(pieces), encode_chunked=True)

    response = connection.getresponse()

    assert response.status == 413
    assert sentence(json.loads(response.read())["error"]) == f"The request's body has more than {LARGE} bytes."
    connection.close()


def test_json_that_others_would_wait_for_is_refused_unless_it_is_asked_for(server: Served) -> None:
    """The server takes bodies that are larger: of binary data."""
    status, said = server.refused({**asked(rows(1), 1), "id": "i" * JSON})

    assert status == 413
    assert f"at most {JSON} are read" in said
    assert "binary data" in said


def test_slow_and_broken_bodies_hurt_nobody_else(server: Served) -> None:
    """Some say that more will come: one never sends it, one goes away, one sends no HTTP at all."""
    head = f"POST {server.infer} HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n{{".encode()
    slow, gone, strange = (server.socket() for _ in range(3))
    for connection, text in ((slow, head), (gone, head), (strange, b"\x16\x03\x01 nothing\r\n\r\n")):
        connection.sendall(text)
    gone.close()
    start = time.monotonic()
    while time.monotonic() - start < 0.5:
        assert server.ask("POST", server.infer, asked(rows(1), 1))[0] == 200

    answer = http.client.HTTPResponse(slow)
    answer.begin()

    assert (answer.status, answer.getheader("Connection")) == (408, "close")
    sentence(json.loads(answer.read())["error"])
    assert strange.recv(99).startswith(b"HTTP/1.1 400")
    slow.close()
    strange.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [b"", b"POST /v2", b"GET /v2 HTTP/1.1\r\nHost: h\r\nX: "], ids=["nothing", "line", "head"]
)
def test_who_never_ends_a_head_is_sent_away(sent: bytes, server: Served) -> None:
    """A byte now and then keeps nothing open, and others are served meanwhile."""
    start = time.monotonic()  # the server's clock runs from when it is connected
    connection = server.socket()
    connection.sendall(sent)
    connection.settimeout(0.2)
    answer = b""
    while not answer and time.monotonic() - start < 30:
        try:
            answer = connection.recv(999)
        except TimeoutError:
            connection.sendall(b"x" if sent else b"")
            assert server.ask("GET", "/v2/health/live")[0] == 200

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert sentence(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]).startswith("The request's head did not come")
    assert connection.recv(99) == b""
    assert time.monotonic() - start >= 1
    connection.close()


def test_one_row_at_a_time(explainer: Path) -> None:
    with served(explainer, "--max-rows", "1") as server, OnnxExplainer(explainer) as alone:
        x = rows(4)
        with ThreadPoolExecutor(4) as clients:
            answers = list(
                clients.map(lambda row: server.ask("POST", server.infer, asked(x[row : row + 1], 1)), range(4))
            )
        for row, (status, answer) in enumerate(answers):
            assert status == 200
            wanted = alone(x[row : row + 1], target=1).relevance["input"]
            np.testing.assert_array_equal(array(answer, "relevance.input"), wanted)
        assert server.refused(asked(x[:2], 1)) == (
            400,
            "The request has 2 rows, and 1 row is taken at a time: send several.",
        )


@pytest.mark.slow
def test_a_stop_loses_no_request(tmp_path: Path) -> None:
    """Clients ask as fast as they can, each on its connection; after SIGTERM all that could be sent is answered."""
    (tmp_path / "m.onnx").write_bytes(doubler(["batch", 1000]))
    body = json.dumps({"inputs": [tensor("x", np.ones((4, 1000), np.float32))]}).encode()
    answered, lost = [0] * 16, []

    def ask(number: int, server: Served) -> None:
        connection = server.connection()
        while True:
            if connection.sock is None:
                try:
                    connection.connect()
                except OSError:
                    return  # nobody listens any more: nothing was sent
            try:
                connection.request("POST", server.infer, body)
                response = connection.getresponse()
                text = response.read()
                assert response.status == 200, text
                answered[number] += 1
            except Exception as error:
                lost.append(repr(error))
                return

    with served(tmp_path / "m.onnx", "--grace", "0.3") as server:
        clients = [threading.Thread(target=ask, args=(number, server)) for number in range(len(answered))]
        for client in clients:
            client.start()
        while min(answered) < 3:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.15)
        assert server.ask("GET", "/v2/health/ready") == (503, {"ready": False})
        assert server.ask("GET", "/v2/health/live")[0] == 200
        for client in clients:
            client.join(30)
        assert server.process.wait(30) == 0
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""

    assert lost == []


def slow() -> bytes:
    """y = relevance.x = x (xᵀx)³: a moment of work for few bytes, where x is wide."""
    x, y = entry("x", ["batch", "width"]), entry("y", ["batch", "width"])
    relevance = entry("relevance.x", ["batch", "width"]) | {"input": "x"}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "x"], ["once"]),
        helper.make_node("MatMul", ["once", "once"], ["twice"]),
        helper.make_node("MatMul", ["twice", "once"], ["thrice"]),
        helper.make_node("MatMul", ["x", "thrice"], ["y"]),
        helper.make_node("Identity", ["y"], ["relevance.x"]),
    ]
    return model_bytes(nodes, [x], [y, relevance], metadata_of([x], [y], [relevance]))


@pytest.mark.slow
def test_who_waits_too_long_or_is_one_too_many_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(slow())
    large, small = ({"inputs": [tensor("x", np.ones((1, width), np.float32))]} for width in (2500, 3))
    with (
        served(tmp_path / "m.onnx", "--max-waiting", "1", "--timeout", "0.3", "--threads", "1") as server,
        ThreadPoolExecutor() as other,
    ):
        running = other.submit(server.refused, large)
        while b"lrp_batch_rows_count 1.0" not in server.ask("GET", "/metrics")[1]:
            assert not running.done()
        waiting = other.submit(server.refused, small)
        while b"lrp_requests_waiting 1.0" not in server.ask("GET", "/metrics")[1]:
            assert not waiting.done()

        assert server.refused(small) == (503, "1 requests wait already: try again.")
        for answer in (running, waiting):
            assert answer.result() == (503, "There was no answer within 0.3 seconds: the server is busy.")
        while (answered := server.ask("POST", server.infer, small))[0] == 503:
            pass
        assert answered[0] == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "port is a whole number from 0 to 65535"),
        (["--max-rows", "0"], "rows is a whole number from 1 up"),
        (["--timeout", "nan"], "seconds is a number above 0"),
        (["--max-json", "0"], "json is a whole number from 1 up"),
        (["--max-body", "inf"], "body is a whole number from 1 up"),
        (["--host", "no.such.host.invalid", "--port", "0"], "cannot listen at no.such.host.invalid:0: "),
        (["--name", "a/b"], "name is letters"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(doubler())

    assert main(["serve", str(tmp_path / "m.onnx"), *options]) == 1

    text = capsys.readouterr().err
    assert text.startswith("lrp-compiler: error: ")
    assert said in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["starlette", "uvicorn", "orjson", "prometheus_client"])
def test_what_is_absent_is_said_with_the_command(absent: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(doubler())
    command = [sys.executable, "-c", WITHOUT.format(absent=(absent,)), "serve", str(tmp_path / "m.onnx")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    said = f"Cannot serve the explainer without {absent.replace('_', '-')}: pip install 'lrp-compiler[serve]'."
    assert (done.returncode, done.stderr) == (1, f"lrp-compiler: error: {said}\n")


def test_a_port_that_is_taken_is_one_sentence(
    server: Served, explainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(explainer), "--port", str(server.port)]) == 1

    assert f"cannot listen at 127.0.0.1:{server.port}: Address already in use" in capsys.readouterr().err
