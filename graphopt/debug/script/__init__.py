"""What the command lines of the tools share: options, help, errors, output.

Data goes to stdout, as a table or with ``--json``; words and progress go to stderr. Everything
heavy is imported inside the functions, so that ``--help`` answers at once.
"""

from graphopt.debug.script.options import (
    NUMBER,
    PATH,
    POSITIVE,
    TOLERANCE,
    check_options,
    metric_option,
    output_file,
    output_folder,
    recipe_options,
)
from graphopt.debug.script.output import print_json, print_table, say, show
from graphopt.debug.script.reading import (
    memory_bytes,
    read_case,
    read_check,
    read_how,
    read_recipe,
)
from graphopt.debug.script.tool import Tool

__all__ = [
    "NUMBER",
    "PATH",
    "POSITIVE",
    "TOLERANCE",
    "Tool",
    "check_options",
    "memory_bytes",
    "metric_option",
    "output_file",
    "output_folder",
    "print_json",
    "print_table",
    "read_case",
    "read_check",
    "read_how",
    "read_recipe",
    "recipe_options",
    "say",
    "show",
]
