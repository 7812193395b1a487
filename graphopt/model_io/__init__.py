"""Reads and writes models: safe, atomic, the weights left on disk.

Reading checks everything that a file can get wrong before it is believed, and refuses with one
line. Weights are mapped where they are, also inside one ``.onnx`` file; writing streams them
from there. What is written appears at its place at one stroke.
"""

from graphopt.model_io.loading import input_specs, load
from graphopt.model_io.outline import outline
from graphopt.model_io.saving import ExternalData, Saved, Stage, save, staged
from graphopt.model_io.skeleton import skeleton
from graphopt.model_io.tensors import MappedTensor, ends_of

__all__ = [
    "ExternalData",
    "MappedTensor",
    "Saved",
    "Stage",
    "ends_of",
    "input_specs",
    "load",
    "outline",
    "save",
    "skeleton",
    "staged",
]
