# `make demo` and `make test` do all the set-up on a machine that has Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .cache/peers
BENCH ?= resnet50 mobilenetv2 vit bert minilm

.PHONY: demo test test-all lint format models browser bench clean

demo: $(INSTALLED)  ## train, distil, export, optimize, validate; prints the table
	$(BIN)/python -m graphopt.models.demo

test: $(INSTALLED) models browser  ## everything that is quick
	$(BIN)/python -m pytest -m "not slow" --numprocesses=2 --dist=loadfile

test-all: $(INSTALLED) models browser  ## everything
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

browser:  ## Chromium, which the tests open reports in
	@sh tests/report/install_browser.sh

bench: $(INSTALLED) models $(PEERS)/.installed  ## graphopt and its peers, side by side
	$(BIN)/python -m graphopt.models.zoo $(BENCH)
	$(BIN)/python -m graphopt.tools.bench_simplify $(BENCH:%=.cache/models/zoo/%.ts.onnx) \
		$(BENCH:%=.cache/models/zoo/%.dyn.onnx) --peers-python $(PEERS)/bin/python
	$(BIN)/python -m graphopt.tools.bench_quantize $(BENCH:%=.cache/models/zoo/%.ts.onnx)
	$(BIN)/python -m graphopt.tools.bench_calibration .cache/models/zoo/$(firstword $(BENCH)).ts.onnx
	$(BIN)/python -m graphopt.models.train student -o $(PEERS)/student.pt
	$(BIN)/python -m graphopt.tools.bench_prune $(PEERS)/student.pt --peers $(PEERS)/torch-pruning
	$(BIN)/python -m graphopt.tools.bench_instruments $(BENCH:%=.cache/models/zoo/%.ts.onnx)
	$(BIN)/python -m graphopt.tools.bench_memory $(BENCH:%=.cache/models/zoo/%.ts.onnx)

# The peers have a place of their own: they are measured, not used.
$(PEERS)/.installed: Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt \
		onnxslim==0.1.98 onnxsim==0.8.1 onnxscript onnxruntime
	$(PEERS)/bin/python -m pip install --quiet --no-deps --target $(PEERS)/torch-pruning \
		torch-pruning==1.6.1
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("graphopt needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[models,real,dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
