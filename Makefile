# make train and make test work on a machine with nothing but Python 3.11, 3.12 or 3.13: both create .venv first.
#
# Variables:
#   PYTHON      interpreter to create .venv with            (default: the first suitable one on the PATH)
#   PIP_FLAGS   further options of pip install, such as the index of a CPU build of torch
#   WORKERS     test processes                              (default: 2)
#   BACKEND     backend of test-fast                        (default: tensorflow)
#   ARGS        further arguments of `keras-dlrm train` or of pytest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train test lint types test-tensorflow test-jax test-torch test-fast clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
BACKEND ?= tensorflow
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done)

help:  ## Show this list
	@grep -E '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | expand -t 18

train: $(STAMP)  ## Train DLRM on the embedded click log and score it
	$(BIN)/keras-dlrm train $(ARGS)

test: lint types test-tensorflow test-jax test-torch  ## Run every check: ruff, mypy, pytest on all three backends

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .

types: $(STAMP)  ## mypy
	$(BIN)/mypy

test-tensorflow: $(STAMP)  ## pytest on TensorFlow
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-jax: $(STAMP)  ## pytest on JAX
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-torch: $(STAMP)  ## pytest on torch
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-fast: $(STAMP)  ## The fast tests on one backend (BACKEND=jax for another)
	KERAS_BACKEND=$(BACKEND) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

clean:  ## Remove the environment and the caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One pip command: the exact torch of the test extra is chosen before anything else can ask for another build.
$(STAMP): pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 on the PATH; give one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c '$(SUITABLE)' || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13; give another: make PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e '.[test]'
	@touch $@
