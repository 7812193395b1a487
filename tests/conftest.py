"""Shared by all tests."""

import pathlib
import sys

# So that tests in any folder can import tests/graphs.py.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
