# driftpost: `make demo` shows the main job, `make test` proves it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-dev

.PHONY: help setup demo test lint types contracts clean

help:
	@echo "make demo    the main job end to end (KEEP=1 leaves it running, DRIFT=0 injects nothing)"
	@echo "make test    set up and run every check and test"
	@echo "make lint    ruff, mypy strict, import contracts"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/digits/demo.py $(if $(KEEP),--keep) $(if $(filter 0,$(DRIFT)),--no-drift)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=agent:aggregator:models:sketches:sync $(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
