"""A failure in one file: all that is needed to see it again elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import zipfile
from typing import Any

from graphopt import pipeline, registry
from graphopt.debug.case import Case
from graphopt.debug.checks import CommandCheck, Verdict
from graphopt.debug.failure import save_case
from graphopt.debug.recipe import Recipe
from graphopt.errors import GraphoptError
from graphopt.model_io import staging
from graphopt.passbase import Promise, Target
from graphopt.validation import Tolerance

__all__ = ["Bundle", "BundleError", "pack", "unpack"]

SCHEMA = "graphopt/repro/1"
MOST_BYTES = 4 << 30
"""More than this a bundle must not unpack to: it may come from anywhere."""
_PACKAGES = ("graphopt", "onnx", "onnx-ir", "onnxruntime", "numpy")
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: the same failure, same bytes


class BundleError(GraphoptError):
    """A file is no bundle, or its failure cannot be replayed here."""

    family = "bundle"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A failure.

    Attributes:
        recipe: The run that fails.
        how: How it is checked: a command, or options of ``NumericCheck.of``.
        verdict: How it fails.
        timeout: Seconds that the run may take.
        memory_bytes: Memory that it may take; ``None``: any.
        versions: What it was seen with.
    """

    recipe: Recipe
    how: dict[str, Any] | CommandCheck
    verdict: Verdict
    timeout: float | None
    memory_bytes: int | None
    versions: dict[str, str]


def versions_here() -> dict[str, str]:
    """Return the versions of everything that a failure may depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    found |= {"python": platform.python_version(), "platform": platform.platform()}
    return {**found, "machine": platform.machine(), "cpu_flags": _cpu_flags()}


def pack(bundle: Bundle, case: Case, path: pathlib.Path) -> int:
    """Write ``bundle``, the model and the samples of ``case``; return the bytes written."""
    how: dict[str, Any]
    if isinstance(bundle.how, CommandCheck):
        how = {"command": list(bundle.how.command)}
    else:
        how = {**bundle.how, "promise": bundle.how["promise"].value}
        if "tolerance" in how:
            how["tolerance"] = dataclasses.asdict(how["tolerance"])
    manifest = {
        "schema": SCHEMA,
        "passes": bundle.recipe.text,
        "plugins": _plugins(bundle.recipe),
        "seed": bundle.recipe.seed,
        "emit": bundle.recipe.emit.value,
        "check": how,
        "verdict": dataclasses.asdict(bundle.verdict),
        "timeout": bundle.timeout,
        "memory_bytes": bundle.memory_bytes,
        "versions": bundle.versions,
    }
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(staging.scratch_folder())
        save_case(case, bundle.recipe, folder)
        (folder / "repro.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        partial = stack.enter_context(staging.staging_folder(path.parent)) / path.name
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _DATE)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(info, file.read_bytes())
        staging.move_into_place([partial], path.parent, durable=False)
    return path.stat().st_size


def unpack(path: pathlib.Path, folder: pathlib.Path) -> Bundle:
    """Unpack the bundle ``path`` into ``folder`` and return what it holds.

    Raises:
        BundleError: It is no bundle, or needs passes that are not installed here.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            archive.extractall(folder)
        manifest = json.loads((folder / "repro.json").read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise BundleError(
                "version", f"{path} is {manifest['schema']!r}, expected {SCHEMA!r}."
            )
    except FileNotFoundError as error:
        raise BundleError("missing-file", f"{path}: {error.strerror}.") from error
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise BundleError("no-bundle", f"{path} is no bundle: {error}.") from error
    for name, plugin in manifest["plugins"].items():
        if name not in registry.names():
            raise BundleError(
                "missing-pass",
                f"{path} needs the pass {name!r} of {plugin}, which is not installed here.",
                hint=f"Install {plugin}.",
            )
    passes = tuple(pipeline.parse(manifest["passes"])) if manifest["passes"] else ()
    samples = folder / "samples"
    return Bundle(
        Recipe(
            folder / "model.onnx",
            passes,
            samples if samples.is_dir() else None,
            None,
            manifest["seed"],
            Target(manifest["emit"]),
        ),
        _how(manifest["check"], manifest["timeout"]),
        Verdict(**manifest["verdict"]),
        manifest["timeout"],
        manifest["memory_bytes"],
        manifest["versions"],
    )


def _how(check: dict[str, Any], timeout: float | None) -> dict[str, Any] | CommandCheck:
    if "command" in check:
        return CommandCheck(tuple(check["command"]), timeout)
    how = {**check, "promise": Promise(check["promise"])}
    if "tolerance" in how:
        how["tolerance"] = Tolerance(**how["tolerance"])
    return how


def _check_members(path: pathlib.Path, archive: zipfile.ZipFile) -> None:
    """Refuse what would be written outside the folder, or fill the disk."""
    total = 0
    for info in archive.infolist():
        name = pathlib.PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
            raise BundleError("unsafe", f"{path} holds {info.filename!r}, outside of itself.")
        total += info.file_size
    if total > MOST_BYTES:
        raise BundleError("too-large", f"{path} would unpack to {total:,} bytes.")


def _plugins(recipe: Recipe) -> dict[str, str]:
    """Return pass -> package and version that it comes from."""
    entries = importlib.metadata.entry_points(group=registry.GROUP)
    found = {}
    for pass_ in recipe.passes:
        for one in getattr(pass_, "passes", (pass_,)):
            for entry in entries:
                if entry.name == one.name and entry.dist is not None:
                    found[one.name] = f"{entry.dist.name} {entry.dist.version}"
    return dict(sorted(found.items()))


def _cpu_flags() -> str:
    """Return the vector extensions of the processor, which decide what kernels are used."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            wanted = ("avx", "sse4", "amx", "fma", "f16c", "asimd", "sve", "i8mm", "bf16")
            return " ".join(flag for flag in value.split() if flag.startswith(wanted))
    return ""
