"""The whole life of a model in one call: ``optimize``, ``validate``."""

from graphopt.api.optimizing import optimize
from graphopt.api.options import Options
from graphopt.api.result import Origin, Result
from graphopt.api.sources import SamplesLike, Source
from graphopt.api.validating import validate

__all__ = ["Options", "Origin", "Result", "SamplesLike", "Source", "optimize", "validate"]
