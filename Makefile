# driftpost: `make demo` shows the main job, `make test` proves it.
# Needs Python 3.10 or newer, make and a package index; everything else goes into $(VENV).
SHELL  := /bin/sh
VENV   ?= .venv
BIN    := $(VENV)/bin
# onnxruntime reports to its maker unless told not to before it is imported.
export ORT_DISABLE_TELEMETRY := 1
ROOMS  := agent:aggregator:models:sketches:sync

# The first interpreter that is new enough; `make PYTHON=/usr/bin/python3.12 test` takes another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.10; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; break; }; done)

# What the environment was made from and for, in the stamp's name: when the requirements, the interpreter or
# the checkout's place change, the stamp is missing and the environment is made anew (it can't be moved).
KEY    := $(shell { cat pyproject.toml constraints.txt; pwd; "$(PYTHON)" -VV; } 2>/dev/null | cksum | cut -d' ' -f1)
DEMO   := $(VENV)/.demo-$(KEY)
DEV    := $(VENV)/.dev-$(KEY)
PIP     = $(BIN)/python -m pip --quiet --disable-pip-version-check install --constraint constraints.txt

.PHONY: help setup demo test lint faults soak models train-environment table-models test-arm64 bench-drift bench-triage bench-fleet chaos bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    the main job end to end (KEEP=1 leaves it running, DRIFT=0 injects nothing)"
	@echo "make test    every check and every test"
	@echo "make lint    ruff, mypy strict, import contracts"
	@echo "make setup   only the virtual environment in $(VENV)"
	@echo "make models  train the demo's models again, in an environment of its own (TensorFlow, 2 GB)"
	@echo "make bench-drift  false alarms and delays beside other detectors: two hours (QUICK=1: ten minutes; SEED=n; FRESH=1)"
	@echo "make bench-triage  incidents that come out of scripted fleets (DEVICES=n, 1,000: a quarter of an hour; ONLY=words, SEED=n)"
	@echo "make bench-fleet  windows a second into SQLite and PostgreSQL, pages with 100,000 devices: ten minutes"
	@echo "make chaos   kill workers, broker and database forty times in mid-ingest: five minutes (KILLS=n)"
	@echo "make bench   what the guard costs beside the bare runtime and others: five minutes (PEERS=0: without the others)"
	@echo "make faults  kills, power cuts, damage, full disks: what each costs; an hour (KILLS=n, 500; ONLY='cuts-full disk')"
	@echo "make soak    one agent, 2 million inferences, a broker that comes and goes: ten minutes (INFERENCES=n)"
	@echo "make table-models  guard every model below MODELS and write the table of docs/models.md: two minutes"
	@echo "make test-arm64  the agent's tests inside the image for 64-bit Arm: an hour under emulation"
	@echo "make clean   remove what the others made"

$(DEMO):
	@test -n "$(PYTHON)" || { echo "driftpost needs Python 3.10 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) (once; a minute or two, mostly downloads)"
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "$(PYTHON) can't make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) --editable '.[demo]'
	@touch $@

$(DEV): $(DEMO)
	@echo "Adding what the checks and tests need"
	@$(PIP) --editable '.[dev]'
	@touch $@

setup: $(DEV)

demo: $(DEMO)
	$(BIN)/python examples/digits/demo.py $(if $(KEEP),--keep) $(if $(filter 0,$(DRIFT)),--no-drift)

# ruff's cache keeps how it sorted an import before the module it names was there.
lint: $(DEV)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=$(ROOMS) $(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

# TensorFlow is nothing that driftpost itself may depend on; the requirements name exact versions.
TRAIN  := .venv-train/.made-$(shell cksum < examples/digits/requirements-train.txt | cut -d' ' -f1)

$(TRAIN):
	@echo "Making .venv-train (once)"
	@$(PYTHON) -m venv --clear .venv-train
	@.venv-train/bin/python -m pip --quiet --disable-pip-version-check install --requirement examples/digits/requirements-train.txt
	@touch $@

train-environment: $(TRAIN)

models: $(TRAIN)
	.venv-train/bin/python examples/digits/make_models.py

# River is nothing that driftpost itself may depend on; without it the benchmark leaves its detectors out.
RIVER  := .venv-bench/.made-$(shell cksum < benchmarks/drift/requirements-peers.txt | cut -d' ' -f1)
SEED   ?= 20261

$(RIVER):
	@$(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip --quiet --disable-pip-version-check install \
	  --requirement benchmarks/drift/requirements-peers.txt && touch $@ || \
	  echo "River can't be installed here (see above): ADWIN, KSWIN and Page-Hinkley are left out"

# One thread for linear algebra: its matrices are small, and the work is spread over processes.
# Finished parts are kept under build/bench_drift.parts: a run that is interrupted goes on from them, as long as
# neither the code nor what is asked for has changed. FRESH=1 measures everything again.
bench-drift: $(DEMO) $(RIVER)
	$(if $(FRESH),rm -rf build/bench_drift.parts)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.drift.run --seed $(SEED) $(if $(QUICK),--quick) \
	  $(if $(PROCESSES),--processes $(PROCESSES)) --keep build/bench_drift.parts \
	  --out build/bench_drift.json --peers-python \
	  $$(.venv-bench/bin/python -c 'import river' 2>/dev/null && echo .venv-bench/bin/python || echo $(BIN)/python)

bench-triage: SEED = 9322
bench-triage: $(DEV)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.triage.run --devices $(or $(DEVICES),1000) --seed $(SEED) \
	  --only "$(ONLY)" --out build/bench_triage.json

# Starts the Mosquitto and PostgreSQL of the machine, as the tests do.
bench-fleet: $(DEV)
	PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.fleet.run --out build/bench_fleet.json

chaos: $(DEV)
	DRIFTPOST_CHAOS_KILLS=$(or $(KILLS),40) DRIFTPOST_CHAOS_DEVICES=300 DRIFTPOST_CHAOS_SECONDS=4 \
	  $(BIN)/python -m pytest tests/aggregator/test_chaos.py -q

# Other libraries get environments of their own under .venv-peers, made once; PEERS=0 leaves them out.
bench: $(DEV)
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.device.run --out build/bench.json \
	  $(if $(filter 0,$(PEERS)),,--peers .venv-peers)

# What tests/faults makes of its faults at full count; the tables stand in docs/durability.md.
FAULTS := PYTHONPATH=$(ROOMS):tests:examples/digits nice -n 15 $(BIN)/python -m

faults: $(DEV)
	$(FAULTS) faults.run --kills $(or $(KILLS),500) $(if $(ONLY),--only $(ONLY)) --out build/faults.md

soak: $(DEV)
	$(FAULTS) faults.soak --inferences $(or $(INFERENCES),2000000) --out build/soak.md

MODELS ?= ../shared/realdata/models

table-models: $(DEV)
	PYTHONPATH=tests:$(ROOMS) $(BIN)/python -m models.guarded_models docs/models.md $(MODELS)

test-arm64:
	deploy/container/test-arm64

clean:
	rm -rf $(VENV) .venv-train .venv-bench .venv-peers build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
