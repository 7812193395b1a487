# `make demo` and `make test` do all the set-up on a machine that has Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all lint format models bench clean

demo: $(INSTALLED)  ## train, distil, export, optimize, validate; prints the table
	$(BIN)/python -m graphopt.models.demo

test: $(INSTALLED) models  ## everything that is quick
	$(BIN)/python -m pytest -m "not slow"

test-all: $(INSTALLED) models  ## everything
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: $(INSTALLED)  ## fetch the real models into .cache/
	$(BIN)/python -m graphopt.models.fetch

bench: $(INSTALLED) models  ## graphopt and its peers, side by side
	$(BIN)/python -m graphopt.tools.bench

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("graphopt needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[models,real,dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
