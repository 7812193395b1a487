"""Text <-> passes: ``"fold-constants{max-bytes=1M},prune-channels{ratio=0.3}"``.

Grammar::

    pipeline = item ("," item)*
    item     = preset | pass | "[" pipeline "]"       rule passes driven together
    pass     = name [ "{" option ("," option)* "}" ]
    option   = name "=" value
    value    = word | "quoted" | "(" value ("," value)* ")"

Option names are the fields of the pass, with ``-`` for ``_``. Integers take a suffix K, M or G
(powers of 1024); the word ``none`` is no value, in quotes it is text. Formatting a pipeline
writes the options that differ from their defaults, and parsing that text gives equal passes.
"""

from graphopt.pipeline.presets import PRESETS
from graphopt.pipeline.sequence import check_order, promise_of, without, without_last_optional
from graphopt.pipeline.text import format_pass, format_pipeline, parse

__all__ = [
    "PRESETS",
    "check_order",
    "format_pass",
    "format_pipeline",
    "parse",
    "promise_of",
    "without",
    "without_last_optional",
]
