# Everything from a clean clone: `make smoke` and `make test` set up what they need.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export DS_ACCELERATOR ?= $(if $(wildcard /dev/nvidia0),,cpu)
ifeq ($(DS_ACCELERATOR),)
unexport DS_ACCELERATOR # an empty value is an error to DeepSpeed
endif
export RAY_USAGE_STATS_ENABLED := 0
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install lint types test test-slow test-cluster smoke wheel

install: $(READY)

# Another torch: make install TORCH="torch==2.13.0 --index-url URL", or TORCH=site for the one that PYTHON has;
# another Python: PYTHON=python3.12. tools/install.sh says which torch is taken and why.
TORCH ?=
PYTHON ?= python3

$(READY): setup.py
	TORCH='$(TORCH)' PYTHON='$(PYTHON)' tools/install.sh $(VENV)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Two tests at a time, the tests of a file one after another; 0: all in one process, for a debugger.
TEST_WORKERS ?= 2
WORKERS := -n $(TEST_WORKERS) --dist loadfile

test: lint types
	$(BIN)/pytest -m 'not slow and not cluster' $(WORKERS) $(PYTEST_ARGS)

test-slow: $(READY)
	$(BIN)/pytest -m 'slow and not cluster' $(WORKERS) $(PYTEST_ARGS)

# Starts a real SLURM of two nodes on this host and stops it at the end; needs root, and apt or a SLURM.
test-cluster: $(READY)
	$(BIN)/pytest -m cluster $(PYTEST_ARGS)

# Always from the beginning: its data and runs are its own.
smoke: $(READY)
	rm -rf runs/smoke data/synthetic
	$(BIN)/swamp smoke

wheel: $(READY)
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .
