"""The child process: what happens there is a result here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import graphs
import numpy as np
import pytest

from graphopt.debug.isolated import Direct, Isolated
from graphopt.errors import ExecutionError, ModelError
from graphopt.runtime import Runtime


def double(runtime: Runtime, value: int) -> int:
    print("not on stdout")
    return 2 * value


def pid(runtime: Runtime) -> int:
    return os.getpid()


def fail(runtime: Runtime, error: Exception) -> None:
    raise error


def die(runtime: Runtime, signum: int) -> None:
    os.kill(os.getpid(), signum)


def leave(runtime: Runtime, code: int) -> None:
    os._exit(code)


def start_and_hang(runtime: Runtime) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    with open(os.environ["GRAPHOPT_TEST_PID"], "w") as file:
        file.write(str(child.pid))
    time.sleep(1000)


def answer_with_a_function(runtime: Runtime):
    return lambda: 1


@pytest.fixture
def place():
    with Isolated(timeout=30) as one:
        yield one


def test_functions_run_in_one_child_and_their_results_come_back(
    place: Isolated, capfd
) -> None:
    assert place.call(double, 21) == 42
    child = place.call(pid)
    assert child != os.getpid()
    assert place.call(pid) == child
    out, err = capfd.readouterr()
    assert out == ""
    assert "not on stdout" in err


def test_errors_come_back_as_they_are(place: Isolated) -> None:
    with pytest.raises(ModelError, match="no good") as caught:
        place.call(fail, ModelError("bad", "no good.", hint="Do better."))
    assert caught.value.hint == "Do better."
    with pytest.raises(ZeroDivisionError):
        place.call(fail, ZeroDivisionError("oh"))
    assert place.call(double, 1) == 2


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_death_is_named_and_the_next_call_works(place: Isolated, signum) -> None:
    with pytest.raises(ExecutionError, match=f"died of {signum.name}") as caught:
        place.call(die, signum)
    assert caught.value.code == "runtime/crashed"
    assert place.call(double, 2) == 4


def test_leaving_without_an_answer_is_a_crash_too(place: Isolated) -> None:
    with pytest.raises(ExecutionError, match="ended with exit code 3"):
        place.call(leave, 3)


def test_a_hang_is_ended_with_all_that_it_started(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRAPHOPT_TEST_PID", str(tmp_path / "pid"))
    with Isolated(timeout=3) as place:
        with pytest.raises(ExecutionError, match="no result within 3 s") as caught:
            place.call(start_and_hang)
        assert caught.value.code == "runtime/timeout"
        child = int((tmp_path / "pid").read_text())
        for _ in range(100):
            if not alive(child):
                break
            time.sleep(0.05)
        assert not alive(child)
        assert place.call(double, 3) == 6


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_answer_that_cannot_be_sent_is_an_error(place: Isolated) -> None:
    with pytest.raises(ExecutionError, match="the answer cannot be sent"):
        place.call(answer_with_a_function)
    assert place.call(double, 4) == 8


def test_an_interrupt_here_ends_the_child_there(place: Isolated, monkeypatch) -> None:
    before = place.call(pid)

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place._pipe, "poll", interrupt, raising=True)
    with pytest.raises(KeyboardInterrupt):
        place.call(double, 1)
    assert place.call(double, 5) == 10
    assert place.call(pid) != before


def test_nothing_is_left_at_the_end(place: Isolated) -> None:
    child = place.call(pid)
    place.close()
    place.close()
    assert not alive(child)


def run_one(runtime: Runtime, value: float) -> float:
    with runtime.session(graphs.load("g (float x) => (float y) { y = Neg(x) }")) as session:
        return float(session.run({"x": np.float32(value)})["y"])


def test_the_runtime_works_there_and_here(place: Isolated) -> None:
    assert place.call(run_one, 3.0) == -3.0
    with Runtime() as runtime:
        assert Direct(runtime).call(run_one, 4.0) == -4.0
        assert Direct(runtime).call(pid) == os.getpid()


def test_memory_can_be_limited() -> None:
    with Isolated(timeout=30, memory_bytes=8 << 30) as place:
        with pytest.raises(MemoryError):
            place.call(take, 16 << 30)
        assert place.call(double, 1) == 2


def take(runtime: Runtime, size: int) -> int:
    return len(bytearray(size))
