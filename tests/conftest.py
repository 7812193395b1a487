"""Shared by all tests."""

import logging
import pathlib
import sys
import textwrap

import pytest

from graphopt import registry

# So that tests in any folder can import tests/graphs.py.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
pytest.register_assert_rewrite("graphs")


@pytest.fixture(autouse=True)
def _log_levels():
    """Commands that are called in the tests' own process set levels; put them back."""
    loggers = [logging.getLogger(name) for name in ("graphopt", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Return a function that installs passes the way a plug-in does.

    ``install(source, names)``: ``source`` is the text of a module, ``names`` gives the class
    in it for each pass. The folder it returns belongs in the ``PYTHONPATH`` of children.
    """
    folder = tmp_path / "plugin"

    def install(source, names, module="plugged_in"):
        info = folder / f"{module}-1.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        (info / "METADATA").write_text(f"Name: {module}\nVersion: 1\n", encoding="utf-8")
        lines = [f"{name} = {module}:{cls}" for name, cls in names.items()]
        text = "\n".join(["[graphopt.passes]", *lines, ""])
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        registry.refresh()
        return folder

    yield install
    monkeypatch.undo()
    for name in [n for n, m in sys.modules.items() if _is_inside(m, folder)]:
        del sys.modules[name]
    registry.refresh()


def _is_inside(module, folder):
    path = getattr(module, "__file__", None)
    return path is not None and pathlib.Path(path).is_relative_to(folder)
