"""What a model is run on: a stream of feeds that can be started again.

A feed is ``{input name: array}``. Samples come from an ``.npz`` file, a folder of ``.npz`` or
``.npy`` files, a ``CalibrationDataReader``, a list, an iterator or a factory of feeds, or are
made up from what the model declares.
"""

from graphopt.samples.spec import Feed, TensorSpec
from graphopt.samples.stream import Samples

__all__ = ["Feed", "Samples", "TensorSpec"]
