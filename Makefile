# Each command makes its own environment in .venv where there is none.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo pictures tutorial notebooks docs test test-slow test-all test-torch test-minima fuzz faithful lint types wheels release clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## explain photos and a sentence; results in build/demo
	$(BIN)/python -m benchmarks.shown.demo

pictures: $(VENV)/.pictures  ## explain speech, an answer and photos; results in benchmarks/results
	$(BIN)/python -m benchmarks.shown.pictures

tutorial: $(VENV)/.demo  ## from a photo to the audit; results in benchmarks/results
	$(BIN)/python -m benchmarks.shown.tutorial_page

# Each is run when itself or the library has changed since.
NOTEBOOKS = $(patsubst docs/notebooks/%.py,build/notebooks/%.md,$(wildcard docs/notebooks/*.py))

notebooks: $(NOTEBOOKS)  ## the tutorials, executed; results in build/notebooks

build/notebooks/%.md: docs/notebooks/%.py docs/execute.py $(shell find lrp_compiler passes rules -name '*.py') | $(VENV)/.docs
	$(BIN)/python docs/execute.py $<

# From inside docs/, where no package of that name is in the way of the one that is read for its docstrings.
docs: $(VENV)/.docs $(NOTEBOOKS)  ## the documentation site, links checked; results in build/docs
	cd docs && NO_MKDOCS_2_WARNING=1 ../$(BIN)/mkdocs build --strict

PYTEST = -m pytest --numprocesses 2 --dist worksteal

test: $(VENV)/.test  ## the tests, without those marked slow or heavy: minutes
	$(BIN)/python $(PYTEST) --durations 30

test-slow: $(VENV)/.test  ## the tests marked slow, which every change has to pass as well: a quarter of an hour
	$(BIN)/python $(PYTEST) --durations 30 -m "slow and not heavy"

test-all: $(VENV)/.test  ## all tests, the heavy ones too: hours
	$(BIN)/python $(PYTEST) --durations 30 -m ""

# What holds of any torch: rules, compiling, files, onnxruntime, and what torch_private replaces.
CORE = tests/rules tests/end_to_end/test_zennit_parity.py tests/end_to_end/test_attnlrp.py tests/test_extension.py \
	tests/product/test_explainer.py tests/product/test_loading.py tests/product/test_torch_private.py \
	tests/product/export/test_onnx.py
OTHER = .venv-torch-$(VERSION)

test-torch:  ## the core of the tests with another torch: make test-torch VERSION=2.12.1
	$(if $(VERSION),,$(error Say which torch: make test-torch VERSION=2.12.1))
	$(PYTHON) -m venv $(OTHER)
	grep -vE '^(torch|torchvision|sympy)==' constraints.txt > $(OTHER)/constraints.txt
	echo "torch==$(VERSION)" >> $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet --constraint $(OTHER)/constraints.txt torch
	$(OTHER)/bin/python -m pip install --quiet --constraint $(OTHER)/constraints.txt --editable ".[test]"
	$(OTHER)/bin/python $(PYTEST) -m "not heavy" --junitxml build/torch-releases/$(VERSION)/core.xml $(CORE)

# The lowest that pyproject.toml allows of what the library stands on, beside the tested torch.
LOWEST = .venv-lowest

test-minima:  ## the core of the tests with the lowest onnx, onnxscript, onnxruntime, numpy and rich that are allowed
	$(PYTHON) -m venv $(LOWEST)
	grep -vE '^(onnx|onnx-ir|onnxscript|onnxruntime|numpy|ml_dtypes|rich)==' constraints.txt > $(LOWEST)/constraints.txt
	sed -nE 's/^    "(onnx|onnx-ir|onnxscript|onnxruntime|numpy|rich)>=([^"]+)",$$/\1==\2/p' pyproject.toml >> $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable ".[test]"
	$(LOWEST)/bin/python $(PYTEST) -m "not heavy" $(CORE)

fuzz: $(VENV)/.test  ## random modules for an hour: each ends in a right result or in one sentence
	$(BIN)/python -m benchmarks.sound.fuzz --minutes 60 --jobs 2

faithful: $(VENV)/.faithfulness  ## does relevance beat chance on real networks? two minutes
	$(BIN)/python -m benchmarks.faithful.run --quick

lint: $(VENV)/.dev  ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The type checker sees the package as it installs: passes/ and rules/ live inside lrp_compiler there.
types: $(VENV)/.dev  ## static types
	rm -rf build/types build/lib
	$(PIP) --no-deps --target build/types .
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p lrp_compiler

wheels: $(VENV)/bin/python  ## lrp-compiler and lrp-compiler-runtime; results in dist
	$(BIN)/python .release/wheels.py dist

release: $(VENV)/.release  ## all distributions, checked and tried where nothing else is, with notes; results in dist
	$(BIN)/python .release/release.py dist

clean:  ## remove everything that was made
	rm -rf $(VENV) .venv-torch-* $(LOWEST) build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: the constraint picks the build without CUDA, whatever other packages would ask for.
$(VENV)/.library: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV); this takes a few minutes the first time."
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.demo: $(VENV)/.library
	$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/.pictures: $(VENV)/.library
	$(PIP) --editable ".[pictures]"
	@touch $@

$(VENV)/.faithfulness: $(VENV)/.library
	$(PIP) --editable ".[faithfulness]"
	@touch $@

$(VENV)/.docs: $(VENV)/.library
	$(PIP) --editable ".[docs]"
	@touch $@

$(VENV)/.test: $(VENV)/.library
	$(PIP) --editable ".[test]"
	@touch $@

$(VENV)/.release: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) build twine
	@touch $@

$(VENV)/.dev: $(VENV)/.library
	$(PIP) --editable ".[dev,test]"
	@touch $@
