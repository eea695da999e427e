# make demo, make test: they need only Python >= 3.11, make and git. Each target makes .venv if it is missing.
#   make demo PYTHON=python3.12              another interpreter
#   make demo TORCH='torch==2.13.0+cpu'      another build of torch, as pip names it
#   make test PYTEST_ARGS='-k phantom -x'    arguments for pytest
#   make test JOBS=8                         test processes

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
PYTEST_ARGS ?=
JOBS ?= 2
DEMO_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-all lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      the whole path on phantoms: about half an hour on two cores; resumes if interrupted"
	@echo "make test      the tests that take seconds"
	@echo "make test-all  the slow ones too"
	@echo "make lint      ruff and mypy"
	@echo "make clean     remove $(VENV) and the caches (the demo's results in fcas_demo/ stay)"

demo: $(STAMP)
	$(BIN)/fcas_demo $(DEMO_ARGS)

# A process for each of two cores, one thread each: two threads that wait for each other beside other work take many
# times as long. Tests of one module share their fixtures, so they stay together.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope -m "not slow and not gpu" $(PYTEST_ARGS)

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Made anew when the requirements change. torch comes first, so that nothing else decides which build it is;
# the last line lets stock nnU-Net run on a CPU build of torch, says what it writes, and writes nothing elsewhere.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt '$(TORCH)' torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	$(BIN)/fcas_doctor --fix
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
