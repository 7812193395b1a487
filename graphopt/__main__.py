"""``graphopt`` and ``python -m graphopt``: the command line, and its end by a signal."""

from __future__ import annotations

import sys

from graphopt.signals import cleaning_up

__all__ = ["run"]


def run() -> None:
    """Run the command line; a signal may come while it is still imported."""
    with cleaning_up("graphopt"):
        try:
            from graphopt.cli import main

            main()
        except KeyboardInterrupt:
            # Where click, which has words of its own for it, was not there yet.
            text = "graphopt: error [interrupted]: stopped; nothing was written."
            print(text, file=sys.stderr)
            sys.exit(130)


if __name__ == "__main__":
    run()
