"""Models are loaded from memory and from disk, whole and with more outputs, and run."""

import contextlib
import os
import pathlib
import signal
import threading
import time

import graphs
import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import ExecutionError, ModelError
from graphopt.runtime import Runtime
from graphopt.runtime.session import run_together
from graphopt.samples import TensorSpec

TEXT = """
    two_steps (float[N, 4] x, int64[M] unused) => (float[N, 4] y)
    <float[4] w = {1, 2, 3, 4}> {
        middle = Mul (x, w)
        y = Relu (middle)
    }"""


@pytest.fixture
def model() -> ir.Model:
    return graphs.load(TEXT)


FEEDS = {"x": np.array([[1, -1, 1, -1]], np.float32), "unused": np.array([7])}
Y = [[1, 0, 3, 0]]
MIDDLE = [[1, -2, 3, -4]]


def test_a_model_in_memory(shared_runtime, model):
    with shared_runtime.session(model) as session:
        assert session.output_names == ("y",)
        assert session.input_specs == (
            TensorSpec("x", np.dtype(np.float32), ("N", 4)),
            TensorSpec("unused", np.dtype(np.int64), ("M",)),
        )
        result = session.run(FEEDS)
    assert list(result) == ["y"]
    np.testing.assert_array_equal(result["y"], Y)


def test_loading_leaves_the_model_as_it_is(shared_runtime, model):
    before = ir.to_proto(model)
    with shared_runtime.session(model, outputs=["middle"]):
        pass
    assert ir.to_proto(model) == before


@pytest.mark.parametrize("optimize", [True, False, "basic", "extended"])
def test_more_outputs_come_after_those_of_the_model(shared_runtime, model, optimize):
    wanted = ["middle", "y", "middle"]
    with shared_runtime.session(model, outputs=wanted, optimize=optimize) as session:
        assert session.output_names == ("y", "middle")
        result = session.run(FEEDS)
    np.testing.assert_array_equal(result["middle"], MIDDLE)
    np.testing.assert_array_equal(result["y"], Y)


def test_an_unknown_output_is_refused(shared_runtime, model):
    with pytest.raises(ExecutionError, match="nowhere") as info:
        shared_runtime.session(model, outputs=["nowhere"])
    assert info.value.code == "runtime/refused"


def with_external_data(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "model.onnx"
    ir.save(graphs.load(TEXT), path, external_data="w.bin", size_threshold_bytes=0)
    assert (folder / "w.bin").stat().st_size >= 16
    return path


@pytest.mark.parametrize("outputs", [(), ("middle",)])
@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_external_data_is_found_next_to_the_model(
    shared_runtime, tmp_path, monkeypatch, outputs, in_memory, relative
):
    path = with_external_data(tmp_path)
    if relative:
        monkeypatch.chdir(tmp_path)
        path = pathlib.Path(path.name)
    source = ir.load(path) if in_memory else path
    with shared_runtime.session(source, outputs=outputs) as session:
        result = session.run(FEEDS)
    np.testing.assert_array_equal(result["y"], Y)
    if outputs:
        np.testing.assert_array_equal(result["middle"], MIDDLE)


def test_weights_of_two_folders(shared_runtime, tmp_path):
    """Such a model is written anew; onnxruntime knows one folder."""
    model = graphs.load("""
        agraph (float[400] x) => (float[400] y) <float[1] a = {0}, float[1] b = {0}> {
            m = Mul (x, a)
            y = Add (m, b)
        }""")
    a, b = np.arange(800, dtype=np.float32).reshape(2, 400)
    for name, data in (("a", a), ("b", b)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "w.bin").write_bytes(data.tobytes())
        value = model.graph.initializers[name]
        value.shape = ir.Shape([400])
        value.const_value = ir.ExternalTensor(
            "w.bin", 0, 1600, ir.DataType.FLOAT, shape=value.shape, name=name, base_dir=folder
        )
    with shared_runtime.session(model) as session:
        result = session.run({"x": np.full(400, 2, np.float32)})
    np.testing.assert_array_equal(result["y"], 2 * a + b)


def test_weights_that_are_too_large_for_a_message(
    shared_runtime, model, monkeypatch, tmp_path
):
    monkeypatch.setattr("graphopt.runtime.loading._INLINE_BYTES", 15)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with shared_runtime.session(model, outputs=["middle"]) as session:
        assert list(tmp_path.iterdir()) == []
        np.testing.assert_array_equal(session.run(FEEDS)["middle"], MIDDLE)


def test_a_file_that_does_not_exist(shared_runtime, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        shared_runtime.session(tmp_path / "none.onnx")


def test_a_file_that_is_no_model_is_refused_and_named(shared_runtime, tmp_path):
    path = tmp_path / "page.onnx"
    path.write_text("<html>")
    with pytest.raises(ExecutionError, match=r"page\.onnx") as info:
        shared_runtime.session(path)
    assert info.value.code == "runtime/refused"


@pytest.mark.parametrize(
    ("feeds", "word"),
    [
        ({}, "missing"),
        ({"x": FEEDS["x"]}, "unused"),
        ({**FEEDS, "z": FEEDS["x"]}, "z"),
        ({**FEEDS, "x": FEEDS["x"].astype(np.float64)}, "double"),
        ({**FEEDS, "x": np.ones((1, 5), np.float32)}, "invalid dimensions"),
        ({**FEEDS, "x": np.array(["2026"], "M8[Y]")}, "datetime64"),
    ],
    ids=["none", "one missing", "one more", "type", "shape", "no type of onnx"],
)
def test_feeds_that_do_not_fit_fail_and_the_session_goes_on(
    shared_runtime, model, feeds, word
):
    with shared_runtime.session(model) as session:
        with pytest.raises(ExecutionError, match=word) as info:
            session.run(feeds)
        assert info.value.code == "runtime/failed"
        np.testing.assert_array_equal(session.run(FEEDS)["y"], Y)


def test_a_large_tensor(shared_runtime):
    model = graphs.load("agraph (float[N] x) => (float[N] y) { y = Neg (x) }")
    x = np.arange(1 << 25, dtype=np.float32)
    with shared_runtime.session(model) as session:
        result = session.run({"x": x})["y"]
    np.testing.assert_array_equal(result, -x)


def test_types_that_numpy_lacks(shared_runtime):
    model = graphs.load("""
        agraph (bfloat16[N] x) => (bfloat16[N] y, float8e4m3fn[N] z, int4[N] i, float[N] f) {
            y = Identity (x)
            f = Cast <to = 1> (x)
            z = Cast <to = 17> (f)
            i = Cast <to = 22> (f)
        }""")
    x = np.array([1, -2, 3], ml_dtypes.bfloat16)
    with shared_runtime.session(model) as session:
        assert session.input_specs[0].dtype == ml_dtypes.bfloat16
        result = session.run({"x": x})
    for name, dtype in [
        ("y", ml_dtypes.bfloat16), ("z", ml_dtypes.float8_e4m3fn), ("i", ml_dtypes.int4),
        ("f", np.float32),
    ]:  # fmt: skip
        assert result[name].dtype == dtype
        np.testing.assert_array_equal(result[name].astype(int), [1, -2, 3])


def test_sequences_and_strings(shared_runtime):
    model = graphs.load("""
        agraph (seq(float[N]) s, string[2] t, int64 n)
            => (float[N] y, string[2] u, seq(float[N]) v) {
            y = SequenceAt (s, n)
            u = Identity (t)
            v = SequenceInsert (s, y)
        }""")
    feeds = {
        "s": [np.ones(2, np.float32), np.full(3, 2, np.float32)],
        "t": np.array(["a", "b"]),
        "n": np.array(1),
    }
    with shared_runtime.session(model) as session:
        assert [spec.dtype for spec in session.input_specs[:2]] == [np.float32, object]
        result = session.run(feeds)
    np.testing.assert_array_equal(result["y"], [2, 2, 2])
    assert result["u"].tolist() == ["a", "b"]
    assert [array.shape for array in result["v"]] == [(2,), (3,), (3,)]


def test_sessions_at_the_same_time(shared_runtime, model):
    with (
        shared_runtime.session(model) as one,
        shared_runtime.session(model, outputs=["middle"]) as two,
    ):
        assert one._process is not two._process
        np.testing.assert_array_equal(one.run(FEEDS)["y"], Y)
        np.testing.assert_array_equal(two.run(FEEDS)["middle"], MIDDLE)


def test_processes_are_used_again(runtime, model):
    pids = set()
    for _ in range(4):
        with runtime.session(model) as session:
            session.run(FEEDS)
            pids.add(session._process.pid)
    assert len(pids) == 1


def test_idle_processes_are_few(runtime, model):
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(runtime.session(model))
    assert len(runtime._idle) == 4
    assert runtime._busy == []


def test_a_closed_session_says_so(shared_runtime, model):
    session = shared_runtime.session(model)
    session.close()
    session.close()
    with pytest.raises(ExecutionError) as info:
        session.run(FEEDS)
    assert info.value.code == "runtime/closed"


def test_a_crash_closes_one_session_and_no_other(runtime, model):
    with runtime.session(model) as one, runtime.session(model) as two:
        os.kill(one._process.pid, signal.SIGSEGV)
        with pytest.raises(ExecutionError, match=r"SIGSEGV.*'two_steps'") as info:
            one.run(FEEDS)
        assert info.value.code == "runtime/crashed"
        with pytest.raises(ExecutionError) as info:
            one.run(FEEDS)
        assert info.value.code == "runtime/closed"
        np.testing.assert_array_equal(two.run(FEEDS)["y"], Y)


def test_a_session_does_not_answer_from_a_process_started_anew(runtime, model):
    session = runtime.session(model)
    process = session._process
    process.kill()
    process.ensure()
    with pytest.raises(ExecutionError) as info:
        session.run(FEEDS)
    assert info.value.code == "runtime/closed"
    session.close()


def loop(name: str) -> ir.Model:
    return graphs.load(f"""
        {name} (int64 n, float x) => (float y) {{
            c = Constant <value = bool {{1}}> ()
            y = Loop (n, c, x) <body = b (int64 i, bool c0, float v) => (bool c1, float w) {{
                c1 = Identity(c0)
                w = Neg(v)
            }}>
        }}""")


FOREVER = {"n": np.array(1 << 62), "x": np.array(1, np.float32)}


def test_a_run_without_end_is_ended(model):
    with Runtime(timeout=1.0) as runtime:
        session = runtime.session(loop("endless"))
        with pytest.raises(ExecutionError, match="'endless' within 1 s") as info:
            session.run(FOREVER)
        assert info.value.code == "runtime/timeout"
        with runtime.session(model) as other:
            np.testing.assert_array_equal(other.run(FEEDS)["y"], Y)


def test_closing_the_runtime_ends_runs_of_other_threads(runtime):
    session = runtime.session(loop("endless"))
    errors = []

    def work():
        try:
            session.run(FOREVER)
        except ExecutionError as error:
            errors.append(error.code)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    runtime.close()
    thread.join(10)
    assert errors == ["runtime/crashed"]


def test_running_together_keeps_results_and_errors_apart(runtime, model):
    other = graphs.load("other (float[N, 4] x) => (float[N, 4] y) { y = Neg (x) }")
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(runtime.session(m)) for m in (model, other, model)]
        first, second, third = run_together(sessions, FEEDS)
        np.testing.assert_array_equal(first["y"], Y)
        assert isinstance(second, ExecutionError)  # it has no input 'unused'
        np.testing.assert_array_equal(third["y"], Y)
        sessions[0].close()
        closed, _, again = run_together(sessions, FEEDS)
        assert closed.code == "runtime/closed"
        np.testing.assert_array_equal(again["y"], Y)


def test_running_together_takes_the_time_of_the_slowest(runtime):
    """Two processes wait for each other's end at the same time, not one after the other."""
    feeds = {"n": np.array(1), "x": np.array(1, np.float32)}
    sessions = [runtime.session(loop("a")), runtime.session(loop("b"))]
    started = []

    def note(session, original):
        def start(value):
            process = original(value)
            started.append(session)
            return process

        return start

    finished = []
    for session in sessions:
        session._start = note(session, session._start)
        original = session._finish
        session._finish = lambda process, o=original: (
            finished.append(len(started)),
            o(process),
        )[1]
    run_together(sessions, feeds)
    assert finished == [2, 2]


def test_one_without_end_takes_no_answer_from_those_that_run_together():
    with Runtime(timeout=1.0) as runtime:
        sessions = [runtime.session(loop("endless")), runtime.session(loop("quick"))]
        # The endless one is waited for first.
        sessions.sort(key=lambda session: id(session._process))
        endless, quick = sessions
        endless._what, quick._what = "endless", "quick"
        quick_feeds = {"n": np.array(1), "x": np.array(1, np.float32)}
        start = quick._start
        quick._start = lambda feeds: start(quick_feeds)
        first, second = run_together(sessions, FOREVER)
        assert first.code == "runtime/timeout"
        assert not isinstance(second, ExecutionError)


def test_closing_a_session_whose_process_has_died_is_no_error(runtime, model):
    session = runtime.session(model)
    process = session._process
    os.kill(process.pid, signal.SIGKILL)
    session.close()
    assert runtime._busy == []
    with runtime.session(model) as again:
        np.testing.assert_array_equal(again.run(FEEDS)["y"], Y)


def test_an_interrupt_ends_what_runs_together(runtime, model):
    sessions = [runtime.session(model), runtime.session(model)]
    processes = [session._process for session in sessions]

    def interrupt(process):
        raise KeyboardInterrupt

    for session in sessions:
        session._finish = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_together(sessions, FEEDS)
    assert [process.pid for process in processes] == [None, None]
    with runtime.session(model) as again:
        np.testing.assert_array_equal(again.run(FEEDS)["y"], Y)


def test_a_runtime_travels_to_another_process_without_its_children(runtime):
    import pickle

    runtime._timeout = 5.0
    copy = pickle.loads(pickle.dumps(runtime))
    assert copy._timeout == 5.0
    assert copy._busy == copy._idle == []


def test_configuration_entries_reach_onnxruntime(shared_runtime):
    """Without the fusion of Q and DQ the product is computed in float."""
    with shared_runtime.session(
        graphs.load(TEXT), config={"session.disable_quant_qdq": "1"}
    ) as session:
        np.testing.assert_array_equal(session.run(FEEDS)["y"], Y)
    with pytest.raises(ExecutionError) as info:
        shared_runtime.session(graphs.load(TEXT), config={"k" * 5000: "1"})
    assert info.value.code == "runtime/refused"


def test_more_outputs_of_a_large_file(shared_runtime, model, monkeypatch, tmp_path):
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    monkeypatch.setattr("graphopt.runtime.loading._INLINE_BYTES", 15)
    with shared_runtime.session(path, outputs=["middle"]) as session:
        np.testing.assert_array_equal(session.run(FEEDS)["middle"], MIDDLE)
    assert list(tmp_path.iterdir()) == [path]
