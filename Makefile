# make train and make test work on a machine with nothing but Python 3.11, 3.12 or 3.13: both create .venv first.
#
# Variables:
#   PYTHON      interpreter to create .venv with            (default: the first suitable one on the PATH)
#   IO_PYTHON   the same for .venv-io: Python 3.11 or 3.12, all that TensorFlow 2.16 has wheels for
#   PIP_FLAGS   further options of pip install, such as the index of a CPU build of torch
#   WORKERS     test processes                              (default: 3, which keep 2 cores busy: many tests wait)
#   BACKEND     backend of test-fast                        (default: tensorflow)
#   ARGS        further arguments of `keras-dlrm train` or of pytest

.DEFAULT_GOAL := help
.NOTPARALLEL:
# Some containers set it; then every worker and every program that tests start compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help train test lint types test-tensorflow test-jax test-torch test-io no-test-io test-fast soak docs notebooks tree clean

VENV := .venv
BIN := $(VENV)/bin
IO_VENV := .venv-io
WORKERS ?= 3
BACKEND ?= tensorflow
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done)

IO_SUITABLE := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
IO_PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c '$(IO_SUITABLE)' 2>/dev/null && echo $$p && break; done)

# An environment is made anew when what it is made from changes: its stamp is named by a checksum of that.
MADE_FROM := import hashlib, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(hashlib.sha256(repr(project).encode()).hexdigest()[:12])
STAMP := $(VENV)/.installed-$(shell $(or $(PYTHON),false) -c '$(MADE_FROM)')
DOCS_STAMP := $(VENV)/.docs-installed
IO_STAMP := $(IO_VENV)/.installed-$(firstword $(shell cksum requirements-io.txt))
# A file is one worker's, so that what its tests share is made once; tests/conftest.py puts the slow files first.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

help:  ## Show this list
	@grep -E '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | expand -t 18

train: $(STAMP)  ## Train DLRM on the embedded click log and score it
	$(BIN)/keras-dlrm train $(ARGS)

# Without Python 3.11 or 3.12 the lane of tensorflow-io is left out, with a word; in CI that is an error.
test: lint types docs test-tensorflow test-jax test-torch $(if $(IO_PYTHON),test-io,no-test-io)  ## Run every check: ruff, mypy, documents, pytest on all backends, tensorflow-io

lint: $(STAMP)  ## ruff, and the contract of the layers
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)  ## mypy
	$(BIN)/mypy

test-tensorflow: $(STAMP)  ## pytest on TensorFlow, and of what no backend takes part in
	KERAS_BACKEND=tensorflow $(PYTEST) $(ARGS)

test-jax: $(STAMP)  ## pytest on JAX
	KERAS_BACKEND=jax $(PYTEST) -m "not neutral" $(ARGS)

test-torch: $(STAMP)  ## pytest on torch
	KERAS_BACKEND=torch $(PYTEST) -m "not neutral" $(ARGS)

test-io: $(IO_STAMP)  ## pytest of the streams on TensorFlow 2.16 with tensorflow-io
	KERAS_BACKEND=tensorflow KERAS_DLRM_IO_LANE=1 PYTHONPATH=. $(IO_VENV)/bin/python -m pytest -n $(WORKERS) \
		tests/io tests/data/test_preprocessor.py tests/data/test_preprocessor_dense.py $(ARGS)

no-test-io:
	@echo "test-io left out: no Python 3.11 or 3.12 on the PATH for TensorFlow 2.16; give one: make test-io IO_PYTHON=/path/to/python3.12"
	@test -z "$(CI)"

test-fast: $(STAMP)  ## The fast tests on one backend (BACKEND=jax for another)
	KERAS_BACKEND=$(BACKEND) $(PYTEST) -m "not slow" $(ARGS)

soak: $(STAMP)  ## What repeats at length: twenty kills, long fuzzing, every number of processes
	KERAS_BACKEND=tensorflow $(PYTEST) -m soak $(ARGS)
	KERAS_BACKEND=jax $(PYTEST) -m "soak and not neutral" $(ARGS)
	KERAS_BACKEND=torch $(PYTEST) -m "soak and not neutral" $(ARGS)
	$(if $(IO_PYTHON),$(MAKE) test-io ARGS="-m soak $(ARGS)")

docs: $(DOCS_STAMP)  ## The documentation site, in build/site; a broken link or reference fails
	$(BIN)/python docs/site.py
	$(BIN)/zensical build --clean --strict

notebooks: $(STAMP)  ## Run the notebooks of docs/tutorials and store their outputs
	KERAS_BACKEND=tensorflow $(BIN)/python docs/notebooks.py

tree: $(STAMP)  ## Write the folder trees of docs/ from the docstrings
	$(BIN)/python docs/tree.py

clean:  ## Remove the environment and the caches
	rm -rf $(VENV) $(IO_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One pip command: the exact torch of the test extra is chosen before anything else can ask for another build.
# A linked environment belongs to another checkout: it is brought up to date, not emptied.
$(STAMP):
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 on the PATH; give one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c '$(SUITABLE)' || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13; give another: make PYTHON=…"; exit 1; }
	@test -L $(VENV) || rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e '.[test]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e '.[docs]'
	@touch $@

$(IO_STAMP):
	@test -n "$(IO_PYTHON)" || { echo "No Python 3.11 or 3.12 on the PATH, all that TensorFlow 2.16 has wheels for; give one: make test-io IO_PYTHON=/path/to/python3.12"; exit 1; }
	@$(IO_PYTHON) -c '$(IO_SUITABLE)' || { echo "$(IO_PYTHON) is neither Python 3.11 nor 3.12; give another: make test-io IO_PYTHON=…"; exit 1; }
	@test -L $(IO_VENV) || rm -rf $(IO_VENV)
	$(IO_PYTHON) -m venv $(IO_VENV)
	$(IO_VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -r requirements-io.txt pytest pytest-xdist hypothesis pandas
	@touch $@
