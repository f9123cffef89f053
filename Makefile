# Two commands for a newcomer: `make demo` and `make test`. Everything they need is installed into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For example: make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" takes torch without CUDA on Linux.
PIP_FLAGS ?=
# pip's own progress bar is shown where there is a terminal: torch alone is some hundred MB.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)

.PHONY: demo test test-cluster coverage lint docs bench wheel sanitize fuzz first-hour clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/measured: $(VENV)/tested
	$(PIP) 'coverage>=7.10'
	touch $@

$(VENV)/clustered: $(VENV)/tested
	$(PIP) --editable '.[test,cluster,s3]' 'moto[s3,server]>=5.1,<6'
	touch $@

$(VENV)/documented: $(VENV)/installed
	$(PIP) --editable '.[docs]'
	touch $@

demo: $(VENV)/installed  ## AST on digits: ten images that train a network
	$(BIN)/astdistill demo

test: $(VENV)/tested  ## every test; FAST=1 leaves out those marked slow
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS) $(if $(FAST),-m 'not slow')

# Processes that tests start are measured as well (pyproject.toml says how), but for nodes of a Ray cluster.
coverage: $(VENV)/measured  ## every test, and the lines of src that none of them runs; fails below 98.7 %
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=98.7

test-cluster: $(VENV)/clustered  ## the tests that need Ray, on a cluster of three nodes on this machine, and those that need S3
	$(BIN)/python -m pytest tests/cluster $(PYTEST_FLAGS)

fuzz: $(VENV)/tested  ## damaged files of every kind; EXAMPLES=5000 for hours, each time others
	FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(BIN)/python -m pytest -n 2 tests/fuzz -s $(PYTEST_FLAGS)

lint: $(VENV)/tested
	$(BIN)/ruff check src tests benchmarks examples hatch_build.py
	$(BIN)/ruff format --check src tests benchmarks examples hatch_build.py
	$(BIN)/pyright

docs: $(VENV)/documented  ## the documentation as pages, in site/
	$(BIN)/zensical build --strict

bench: $(VENV)/installed  ## time and memory beside the published way; NAME=bptt, experts, augment, store, evaluate, estimate, shared or cluster for the others; FLAGS="-n 5 --json FILE"
	cd benchmarks && ../$(BIN)/python -m suite $(or $(NAME),unroll) $(FLAGS)

wheel: $(VENV)/installed  ## the wheel with its kernels, in dist/, tried where there is no compiler and no cache
	$(BIN)/python tests/wheel_check.py

first-hour:  ## every command of the README and the guides, in an environment and a folder of its own; FLAGS="--keep FOLDER"
	$(PYTHON) tests/first_hour/first_hour.py $(FLAGS)

sanitize: $(VENV)/installed  ## the kernels under ASan and UBSan, over odd shapes (gcc on Linux)
	$(BIN)/python tests/sanitize

clean:
	rm -rf $(VENV) dist runs experts site .cache
