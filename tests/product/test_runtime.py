"""Calling an explainer's ONNX file without torch: binding, checks, results, batches, threads."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.hand_made import chooser, doubler, lookup, seeded, x_of

from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.runtime import Explanation, OnnxExplainer, lean_options


def test_a_call_returns_the_output_and_the_relevance_of_each_input() -> None:
    explanation = OnnxExplainer(doubler())(x_of(2))
    assert isinstance(explanation, Explanation)
    np.testing.assert_array_equal(explanation.output, 2 * x_of(2))
    assert list(explanation.relevance) == ["x"]
    np.testing.assert_array_equal(explanation.relevance["x"], 2 * x_of(2) ** 2)


def test_several_inputs_bind_by_position_and_name_and_several_outputs_come_by_name() -> None:
    explanation = OnnxExplainer(lookup())([[0, 1]], mask=np.ones((1, 2), np.float32))
    assert list(explanation.output) == ["score", "total"]
    np.testing.assert_array_equal(explanation.output["total"], [11.0])
    np.testing.assert_array_equal(explanation.relevance["ids"], [[1.0, 10.0]])


def test_plain_onnxruntime_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.lrp.onnx").write_bytes(doubler())
    session = onnxruntime.InferenceSession(tmp_path / "m.lrp.onnx")
    output, relevance = session.run(["y", "relevance.x"], {"x": x_of(2)})
    explanation = OnnxExplainer(tmp_path / "m.lrp.onnx")(x_of(2))
    np.testing.assert_array_equal(explanation.output, output)
    np.testing.assert_array_equal(explanation.relevance["x"], relevance)


def test_the_explainer_describes_itself() -> None:
    explainer = OnnxExplainer(chooser())
    assert explainer.inputs == (TensorSpec("x", ("batch", 3), "float32"),)
    assert explainer.outputs == (TensorSpec("y", ("batch", 3), "float32"),)
    assert explainer.metadata["target"] == "index"
    explainer.metadata["target"] = "changed"
    assert explainer.metadata["target"] == "index"
    assert "x: float32[batch, 3], target: int64[batch] -> y: float32[batch, 3]" in repr(explainer)


def test_a_target_chooses_the_class_of_each_row() -> None:
    explainer = OnnxExplainer(chooser())
    relevance = explainer(x_of(2), target=np.array([2, 0])).relevance["x"]
    np.testing.assert_array_equal(relevance, 2 * x_of(2) * [[0, 0, 1], [1, 0, 0]])
    for one_for_all in (1, [1, 1], np.int32(1), np.array([1, 1], np.uint8)):
        relevance = explainer(x_of(2), target=one_for_all).relevance["x"]
        np.testing.assert_array_equal(relevance, 2 * x_of(2) * [0, 1, 0])


def test_a_seed_is_the_relevance_of_the_output() -> None:
    seed = np.full((2, 3), 5, np.float32)
    np.testing.assert_array_equal(OnnxExplainer(seeded())(x_of(2), seed=seed).relevance["x"], 5 * x_of(2))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "The target is missing: this explainer was compiled with target='index'"),
        ([0, 1, 2], "'target' has size 3 in dimension 'batch', an input before it 2"),
        ([[0], [1, 2]], "'target' cannot be read as an array"),
        ([0, 3], "Target 3 is out of range: the model has 3 classes, 0 to 2"),
        ([-4, 0], "Target -4 is out of range"),
        ([0.0, 1.0], "'target' has dtype float64, but int64 is wanted"),
        (True, "'target' has dtype bool, but int64 is wanted"),
        ("cat", "'target' has dtype str"),
    ],
)
def test_a_wrong_target_is_refused(target: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        OnnxExplainer(chooser())(x_of(2), target=target)


def test_a_target_or_seed_that_the_explainer_does_not_take_is_refused() -> None:
    explainer = OnnxExplainer(doubler())
    with pytest.raises(InputError, match=r"A target was given, but .* for 'argmax'; compile with target='index'"):
        explainer(x_of(2), target=1)
    with pytest.raises(InputError, match=r"A seed was given, but .* compile with seed='tensor'"):
        explainer(x_of(2), seed=x_of(2))
    with pytest.raises(InputError, match="The seed is missing"):
        OnnxExplainer(seeded())(x_of(2))
    with pytest.raises(InputError, match="'seed' has shape"):
        OnnxExplainer(seeded())(x_of(2), seed=x_of(2)[:, :2])


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "takes 1 input .x., but 'x' is missing"),
        ((x_of(2), x_of(2)), {}, "takes 1 input .x., but 2 were given by position"),
        ((x_of(2),), {"y": x_of(2)}, "takes 1 input .x.: 'y' is none of them"),
        ((x_of(2),), {"x": x_of(2)}, "'x' is given twice"),
        ((x_of(2)[0],), {}, r"shape \[3\], but \[batch, 3\] is wanted: the batch dimension is missing"),
        ((x_of(2)[None],), {}, r"shape \[1, 2, 3\], but \[batch, 3\] is wanted\."),
        ((x_of(2)[:, :2],), {}, r"shape \[2, 2\], but \[batch, 3\] is wanted: dimension 1 must be 3, not 2"),
        ((x_of(2)[:0],), {}, "'x' is empty: dimension 'batch' has size 0"),
        ((x_of(2).astype(np.float64),), {}, "dtype float64, but float32 is wanted; narrowing can lose digits"),
        ((x_of(2).astype(np.uint8),), {}, "dtype uint8, but float32 is wanted"),
        (([[1.0, 2.0], [3.0]],), {}, "'x' cannot be read as an array"),
        ((["cat"],), {}, "'x' has dtype str"),
        ((object(),), {}, "'x' has dtype object"),
    ],
)
def test_wrong_inputs_are_refused(args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        OnnxExplainer(doubler())(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_dimensions_of_one_name_must_agree() -> None:
    explainer = OnnxExplainer(lookup())
    with pytest.raises(InputError, match="'mask' has size 3 in dimension 'sequence', an input before it 2"):
        explainer([[0, 1]], np.ones((1, 3), np.float32))
    with pytest.raises(InputError, match=r"takes 2 inputs \(ids, mask\), but 'ids' and 'mask' are missing"):
        explainer()


@pytest.mark.parametrize("given", ["float16", ">f4"])
def test_a_dtype_that_widens_is_cast(given: str) -> None:
    explanation = OnnxExplainer(doubler())(x_of(2).astype(given))
    assert explanation.relevance["x"].dtype == np.float32
    np.testing.assert_array_equal(explanation.output, 2 * x_of(2))


def test_integers_and_lists_fit_an_index_input_but_floats_do_not() -> None:
    explainer = OnnxExplainer(lookup())
    for ids in ([[0, 1]], np.array([[0, 1]], np.int32), np.array([[0, 1]], np.uint8)):
        assert explainer(ids, [[1, 1]]).output["total"] == 11
    for wrong in ([[0.0, 1.0]], np.array([[0.0, 1.0]], np.float32), [[True, False]]):
        with pytest.raises(InputError, match="int64 is wanted"):
            explainer(wrong, [[1, 1]])


def test_nan_passes_unless_it_is_refused() -> None:
    x = x_of(2)
    x[1, 1] = np.nan
    explainer = OnnxExplainer(doubler())
    assert np.isnan(explainer(x).output[1, 1])
    with pytest.raises(InputError, match="'x' holds NaN"):
        explainer(x, check_nan=True)


def test_a_failure_inside_onnxruntime_is_one_sentence() -> None:
    with pytest.raises(LrpError, match=r"failed on these inputs in onnxruntime: .*Gather") as caught:
        OnnxExplainer(lookup())([[0, 7]], [[1, 1]])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_a_big_batch_is_cut_and_put_together(batch_size: int) -> None:
    target = np.array([0, 1, 2, 0, 1])
    explainer = OnnxExplainer(chooser())
    whole = explainer(x_of(5), target=target)
    cut = explainer(x_of(5), target=target, batch_size=batch_size)
    np.testing.assert_array_equal(cut.output, whole.output)
    np.testing.assert_array_equal(cut.relevance["x"], whole.relevance["x"])


def test_cutting_follows_the_batch_dimension_wherever_it_is() -> None:
    x = x_of(5).T.copy()
    explainer = OnnxExplainer(doubler([3, "batch"]))
    np.testing.assert_array_equal(explainer(x, batch_size=2).relevance["x"], explainer(x).relevance["x"])


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(InputError, match="compiled for a fixed batch"):
        OnnxExplainer(doubler([2, 3]))(x_of(2), batch_size=1)
    for wrong in (0, -1, True):
        with pytest.raises(InputError, match="positive integer"):
            OnnxExplainer(doubler())(x_of(2), batch_size=wrong)
    with pytest.raises(InputError, match="is not made row by row"):
        OnnxExplainer(doubler(["batch", "batch"]))(x_of(3), batch_size=1)


def test_the_progress_bar_counts_rows_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    OnnxExplainer(doubler())(x_of(5), batch_size=2, progress=True)
    captured = capsys.readouterr()
    assert "5/5" in captured.err
    assert captured.out == ""


def test_several_threads_may_call_one_explainer() -> None:
    explainer = OnnxExplainer(doubler())
    wrong: list[int] = []

    def explain(rows: int) -> None:
        for _ in range(50):
            if not np.array_equal(explainer(x_of(rows)).relevance["x"], 2 * x_of(rows) ** 2):
                wrong.append(rows)

    threads = [threading.Thread(target=explain, args=(rows,)) for rows in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_explainer_says_so() -> None:
    with OnnxExplainer(doubler()) as explainer:
        explainer(x_of(2))
    with pytest.raises(LrpError, match="closed"):
        explainer(x_of(2))
    assert "closed" in repr(explainer)


def test_session_options_and_providers_pass_through() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    explainer = OnnxExplainer(doubler(), session_options=options, providers=["CPUExecutionProvider"])
    assert explainer._session is not None
    assert explainer._session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize("fold_weights", [True, False])
def test_lean_options_give_the_same(fold_weights: bool) -> None:
    lean = OnnxExplainer(doubler(), session_options=lean_options(fold_weights=fold_weights))
    assert not lean_options().enable_mem_reuse
    np.testing.assert_array_equal(lean(x_of(2)).relevance["x"], 2 * x_of(2) ** 2)


def test_the_runtime_imports_and_runs_where_torch_is_absent(tmp_path: Path) -> None:
    (tmp_path / "m.lrp.onnx").write_bytes(doubler())
    program = """
        import sys
        class NoTorch:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "onnx", "onnxscript", "rich"):
                    raise ImportError(f"{name} is not installed here")
        sys.meta_path.insert(0, NoTorch())
        import numpy as np
        from lrp_compiler.runtime import OnnxExplainer
        explanation = OnnxExplainer(sys.argv[1])(np.full((1, 3), 3, np.float32))
        assert explanation.relevance["x"].tolist() == [[18, 18, 18]]
        assert "torch" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "m.lrp.onnx")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
