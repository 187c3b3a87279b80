# Each target does all set-up itself: a fresh machine needs Python >= 3.10 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test rehearse lint docs check compare bench-torch gpu-check proofs clean help

help:            ## what there is to make
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:[^#]*##/\t/'

# Not bin/python: venv makes that first, and may fail afterwards, as where Debian keeps
# ensurepip in a package of its own. With pip the environment is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo \
	"minicnn needs Python >= 3.10, $(PYTHON) is: $$($(PYTHON) -V 2>&1);" \
	"name another one: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.core

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.core $(VENV)/.test

run: $(VENV)/.core  ## train a base net on the demo set, then transfer three of its layers
	$(BIN)/minicnn train-base --task A
	$(BIN)/minicnn transfer --from A --n 3 --finetune

# Whole files to a process: a file's tests share what is slow to make. In the order that
# tests/conftest.py gives them, the slowest first.
test: $(VENV)/.test  ## run the tests, a process a core; ARGS="-n 0 -k lrn" runs some in one
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

rehearse: $(VENV)/.test  ## run the tests marked gpu without one: the launch code of cuda on a stand-in for CuPy
	MINICNN_FUZZ_EXAMPLES=2 $(BIN)/python -m pytest -p tests.support.cupy_stand_in -m gpu -n auto --dist loadfile \
	    --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.core  ## build the site into site/; fails where a link or a reference leads nowhere
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

compare: $(VENV)/.core  ## install PyTorch, for the tests and benchmarks that compare with it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[compare]'

bench-torch: compare  ## time a training step beside PyTorch's; keep it in docs/performance.md
	$(BIN)/python -m minicnn.experiments.bench.against_torch --layers --record $(ARGS)

gpu-check: $(VENV)/.test  ## prove and measure all on a GPU; CUDA=12 or CUDA=13 installs CuPy first
	$(if $(CUDA),$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cuda$(CUDA)]')
	$(BIN)/python experiments/gpu_check.py $(ARGS)

proofs: $(VENV)/.test  ## write docs/proofs.md afresh: errors, gradients, compile table
	$(BIN)/python -m minicnn.experiments.proofs.proofs $(ARGS)

check: test lint  ## what a change must pass

clean:           ## remove what make made
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
