"""What looks on while passes run: timing, verification, dumps, statistics, and the safe mode.

An instrument is called between passes (``graphopt.manager.Instrument``), a guard after every
single rewrite (``graphopt.edit.Guard``). Those that are not asked for cost nothing.
"""

from graphopt.instruments.dump import DumpChanged, DumpRewrites
from graphopt.instruments.error import ErrorAfter, Errors
from graphopt.instruments.provenance import read_provenance, read_runs, write_provenance
from graphopt.instruments.safe import Safe
from graphopt.instruments.statistics import RuleStatistic, statistics
from graphopt.instruments.timing import Measurement, Timing
from graphopt.instruments.verify import VerifyEach, structural_fault

__all__ = [
    "DumpChanged",
    "DumpRewrites",
    "ErrorAfter",
    "Errors",
    "Measurement",
    "RuleStatistic",
    "Safe",
    "Timing",
    "VerifyEach",
    "read_provenance",
    "read_runs",
    "statistics",
    "structural_fault",
    "write_provenance",
]
