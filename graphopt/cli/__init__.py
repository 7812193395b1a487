"""The command line: parse, call the API, print.

Data goes to stdout, words and progress to stderr. Everything heavy is imported inside the
commands, so that ``graphopt --help`` answers at once. One module a command; ``options`` and
``group`` hold what they share.
"""

from graphopt.cli.group import main

__all__ = ["main"]
