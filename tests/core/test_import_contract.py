"""Which package may import which; read from the source, nothing is imported.

Dependencies point one way: passes, models and tools -> graphopt (the core); nothing but a
test imports a pass by name. The folders ``passes/``, ``models/`` and ``tools/`` are installed
as ``graphopt.passes``, ``graphopt.models`` and ``graphopt.tools`` (setuptools
``package-dir``), so their bare names are never imported; ``torch`` belongs to ``models/``
alone.
"""

import ast
import pathlib
import tomllib

import pytest

# This file is in tests/core/, so the root is two folders up.
ROOT = pathlib.Path(__file__).resolve().parents[2]

# Folder in the repository -> name under which it is imported.
PACKAGES = {
    "graphopt": "graphopt",
    "passes": "graphopt.passes",
    "models": "graphopt.models",
    "tools": "graphopt.tools",
}
# Folder -> third-party packages it may not import. A pass that must execute a graph asks
# the core for it.
THIRD_PARTY: dict[str, set[str]] = {
    "graphopt": {"torch"},
    "passes": {"torch", "onnxruntime"},
    "models": set(),
    "tools": {"torch"},
}


def banned(folder: str) -> set[str]:
    """Return the module names, each with its submodules, that ``folder`` may not import.

    Everyone may import the core. The core finds passes through the ``graphopt.passes``
    entry-point group, the others get them from the core.
    """
    outer = PACKAGES.keys() - {"graphopt"}
    return {PACKAGES[other] for other in outer - {folder}} | outer | THIRD_PARTY[folder]


def imported(package: str, source: str) -> set[str]:
    """Return the absolute name of every import in ``source``, a module of ``package``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def violations(folder: str, source: str, subpackage: str = "") -> set[str]:
    """Return the imports in ``source``, a file of ``folder``, that break the contract."""
    package = f"{PACKAGES[folder]}.{subpackage}".rstrip(".")
    return {
        name
        for name in imported(package, source)
        if any(name == b or name.startswith(b + ".") for b in banned(folder))
    }


@pytest.mark.parametrize("folder", PACKAGES)
def test_imports_point_one_way(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        subpackage = ".".join(path.parent.relative_to(ROOT / folder).parts)
        bad = violations(folder, path.read_text(encoding="utf-8"), subpackage)
        assert not bad, f"{path.relative_to(ROOT)} imports {sorted(bad)}"


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("graphopt", "import graphopt.passes.dce"),
        ("graphopt", "from graphopt import passes"),
        ("graphopt", "from . import passes"),
        ("graphopt", "def f():\n    import torch"),
        ("passes", "from graphopt.models import mlp"),
        ("passes", "from ..models import mlp"),
        ("passes", "import onnxruntime as ort"),
        ("models", "from graphopt.passes import dce"),
        ("tools", "from graphopt.passes import dce"),
        ("tools", "from passes import dce"),
    ],
)
def test_violation_is_caught(folder: str, source: str) -> None:
    assert violations(folder, source)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("graphopt", "import onnx_ir.passes\nfrom .registry import find"),
        ("passes", "from . import dce\nfrom graphopt.rewrite import Rule"),
        ("models", "import torch.nn\nfrom graphopt import optimize"),
        ("tools", "from graphopt.registry import find\nfrom .bisect import search"),
    ],
)
def test_allowed_import_passes(folder: str, source: str) -> None:
    assert not violations(folder, source)


def test_every_package_is_in_the_wheel() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    found = [
        ".".join((name, *init.parent.relative_to(ROOT / folder).parts))
        for folder, name in PACKAGES.items()
        for init in (ROOT / folder).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(found)
