"""Whatever happens to the child process, the parent gets an error and goes on."""

import contextlib
import gc
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types

import pytest

from graphopt.errors import ExecutionError
from graphopt.runtime.process import Process, error_of, meaningful_line


@pytest.fixture
def process():
    process = Process()
    yield process
    process.kill()


def hello(process: Process) -> str:
    return process.request("hello", what="test")[0]


def is_gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends within the time; a zombie has not ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGFPE", "SIGABRT", "SIGKILL", "SIGBUS"])
def test_a_native_crash_is_an_error_and_the_next_request_works(process, name):
    pid = process.ensure() and process.pid
    with pytest.raises(
        ExecutionError, match=f"died of {name} while running node 'n7'"
    ) as info:
        process.request("misbehave", what="node 'n7'", how=name)
    assert info.value.code == "runtime/crashed"
    assert info.value.hint
    assert is_gone(pid)
    assert hello(process)
    assert process.generation == 2


def test_a_child_killed_from_outside_is_an_error(process):
    process.ensure()
    threading.Timer(0.2, os.kill, (process.pid, signal.SIGKILL)).start()
    with pytest.raises(ExecutionError, match=r"SIGKILL.*lack of memory"):
        process.request("misbehave", what="model 'm'", how="hang")
    assert hello(process)


def test_a_child_killed_between_two_requests_is_an_error_once(process):
    process.ensure()
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(ExecutionError, match="SIGKILL"):
        hello(process)
    assert hello(process)


def test_a_hang_is_ended_by_the_timeout(process):
    pid = process.ensure() and process.pid
    start = time.monotonic()
    with pytest.raises(ExecutionError, match=r"did not finish.* within 0\.3 s") as info:
        process.request("misbehave", what="model 'm'", how="hang", timeout=0.3)
    assert info.value.code == "runtime/timeout"
    assert time.monotonic() - start < 5
    assert is_gone(pid)
    assert hello(process)


def test_a_child_that_is_stopped_is_ended_by_the_timeout(process):
    process.ensure()
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(ExecutionError) as info:
        process.request("hello", what="test", timeout=0.3)
    assert info.value.code == "runtime/timeout"
    assert hello(process)


def test_too_much_memory_is_an_error_and_not_the_end_of_the_machine(process):
    with pytest.raises(ExecutionError, match="more memory than it may use") as info:
        process.request("misbehave", what="node 'n'", how="allocate")
    assert info.value.code == "runtime/failed"
    assert process.generation == 1
    assert hello(process)


def test_no_zombie_and_no_descriptor_is_left(process):
    hello(process)
    process.kill()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    pids = []
    for _ in range(5):
        hello(process)
        pids.append(process.pid)
        with contextlib.suppress(ExecutionError):
            process.request("misbehave", what="test", how="SIGSEGV")
    process.kill()
    assert all(map(is_gone, pids))
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_owner_that_forgets_to_close_leaves_no_process():
    process = Process()
    hello(process)
    pid = process.pid
    del process
    gc.collect()
    assert is_gone(pid)


def test_an_interrupt_ends_the_child_so_that_no_old_answer_is_read(process):
    hello(process)

    def interrupt(value):
        raise KeyboardInterrupt

    process._child.channel.receive = interrupt
    with pytest.raises(KeyboardInterrupt):
        process.request("misbehave", what="test", how="hang")
    assert process.pid is None
    assert hello(process)


def test_ctrl_c_reaches_the_parent_only(process):
    # Where the tests run in the background the signal is ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process.ensure()
    finally:
        signal.signal(signal.SIGINT, before)
    assert os.getpgid(process.pid) != os.getpgid(0)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert hello(process)
    assert process.generation == 1


def test_threads_take_turns(process):
    answers, errors = [], []

    def work(number):
        try:
            answers.extend(hello(process) for _ in range(30))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(answers) == 240
    assert process.generation == 1


def test_killing_frees_a_thread_that_waits_for_an_answer(process):
    process.ensure()
    errors = []

    def work():
        try:
            process.request("misbehave", what="test", how="hang")
        except ExecutionError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    process.kill()
    thread.join(10)
    assert not thread.is_alive()
    assert [error.code for error in errors] == ["runtime/crashed"]


def test_a_copy_made_by_fork_starts_a_child_of_its_own(process):
    code = """
        import os
        from graphopt.runtime.process import Process
        process = Process()
        process.ensure()
        pid = process.pid
        copy = os.fork()
        if not copy:
            process.request("hello", what="test")
            os._exit(0 if process.pid != pid else 1)
        _, status = os.waitpid(copy, 0)
        process.request("hello", what="test")
        assert status == 0 and process.pid == pid and process.generation == 1
        process.kill()
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("busy", ["wait", "hang"])
def test_the_child_ends_when_its_parent_is_killed(busy):
    code = f"""
        import os, signal, sys, threading
        from graphopt.runtime.process import Process
        process = Process()
        process.ensure()
        print(process.pid, flush=True)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if {busy == "hang"}:
            process.request("misbehave", what="test", how="hang")
        threading.Event().wait()
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL
    assert is_gone(int(result.stdout))


def test_what_native_code_prints_is_in_the_error_and_nowhere_else(process, capfd):
    process.ensure()
    noise = process._child.noise
    process._child.channel.send(("hello", {}))
    process._child.channel.receive()
    process.send("misbehave", what="model 'm'", how="SIGSEGV")
    os.write(
        noise.fileno(), b"2026-01-02 03:04:05.678 [E:onnxruntime:, a.cc:1 Run] bad shape\n"
    )
    with pytest.raises(ExecutionError, match="It said: bad shape"):
        process.receive(what="model 'm'")
    assert capfd.readouterr() == ("", "")


def test_the_child_imports_numpy_and_onnxruntime_only():
    code = """
        import sys
        import graphopt.runtime.worker
        print([name for name in ("onnx", "onnx_ir", "ml_dtypes", "click", "rich", "torch")
               if name in sys.modules])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_the_child_takes_no_module_from_the_working_directory(process, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    assert hello(process)


def test_the_child_reports_to_nobody(process, tmp_path, monkeypatch):
    """onnxruntime keeps what it has to report in a file of its own below the home folder."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Set in continuous integration, where it keeps quiet by itself.
    monkeypatch.delenv("CI", raising=False)
    hello(process)
    folder = pathlib.Path(f"/proc/{process.pid}/fd")
    opened = [os.readlink(entry) for entry in folder.iterdir()]
    assert [name for name in opened if name.startswith(str(tmp_path))] == []
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_does_not_start_says_why(process, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExecutionError, match="exit status 1"):
        process.ensure()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "\n\x1b[1;31m2026-11-22 05:44:19.123456 [E:onnxruntime:, x.cc:5 Run] Bad.\x1b[m",
            "Bad.",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : Load model failed", "Load model failed"),
        ("Traceback (most recent call last):\n  File x\nImportError: no", "ImportError: no"),
        ("x" * 500, "x" * 397 + "..."),
        (" \n", ""),
    ],
)
def test_the_first_line_that_says_something_is_found(text, line):
    assert meaningful_line(text) == line


def test_errors_survive_the_way_to_another_process():
    error = error_of("model 'm'", "refused", "[ONNXRuntimeError] : 1 : FAIL : no")
    copy = pickle.loads(pickle.dumps(error))
    assert (
        str(copy) == str(error) == "[runtime/refused] onnxruntime does not load model 'm': no"
    )


def test_no_file_is_left(process, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hello(process)
    with contextlib.suppress(ExecutionError):
        process.request("misbehave", what="test", how="SIGKILL")
    assert list(pathlib.Path(tmp_path).iterdir()) == []


def test_clock_of_a_request_sent_ahead_starts_when_the_one_before_is_answered(monkeypatch):
    now, deadlines = 100.0, []

    class Answers:
        """A channel whose other end takes 9 seconds for each request."""

        def send(self, head, values, deadline):
            pass

        def receive(self, deadline):
            nonlocal now
            deadlines.append(deadline)
            now += 9
            return ("ok", None), []

    monkeypatch.setattr("graphopt.runtime.process.time.monotonic", lambda: now)
    process = Process()
    with tempfile.TemporaryFile() as noise:
        process._child = types.SimpleNamespace(
            owner=os.getpid(), noise=noise, channel=Answers()
        )
        for _ in range(3):
            process.send("run", what="test", timeout=10)
        for _ in range(3):
            process.receive(what="test")
        process._child = None
    assert deadlines == [110, 119, 128]
