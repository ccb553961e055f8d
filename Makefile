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

# torch first and pinned, through pip, which honours a wheel folder or an index for CPU builds in your
# pip configuration (uv does not read it); later resolvers keep what is there. Without this order
# deepspeed would pull the newest torch with several gigabytes of CUDA packages.
TORCH ?= torch==2.13.0

$(READY): setup.py
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv $(TORCH)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev,openmoji]'
	touch $(READY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest -m 'not slow and not cluster' $(PYTEST_ARGS)

test-slow: $(READY)
	$(BIN)/pytest -m 'slow and not cluster' $(PYTEST_ARGS)

# Starts a real SLURM of two nodes on this host and stops it at the end; needs root, and apt or a SLURM.
test-cluster: $(READY)
	$(BIN)/pytest -m cluster $(PYTEST_ARGS)

# Always from the beginning: its data and runs are its own.
smoke: $(READY)
	rm -rf runs/smoke data/synthetic
	$(BIN)/swamp smoke

wheel: $(READY)
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .
