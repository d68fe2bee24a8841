SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP_INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OLDEST := .venv-oldest
PINS := pyproject.toml constraints.txt
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: help install demo test test-oldest lint clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed ## Put Headway and all it needs into .venv, at pinned versions

demo: install ## Train small models with and without each mechanism; write runs/demo/report.html
	@$(VENV)/bin/headway compare --out runs/demo
	@echo "The report: $(CURDIR)/runs/demo/report.html"

test: $(VENV)/.installed-dev ## Run the tests (options: PYTEST_ARGS="-n 0 -k shift")
	$(PYTHON) -m pytest $(PYTEST_ARGS)

test-oldest: $(OLDEST)/.installed ## Run the tests of models with the oldest transformers that is supported
	PYTHONPATH=src $(OLDEST)/bin/python -m pytest -p no:cacheprovider $(PYTEST_ARGS) \
	  tests/hosts tests/decoder tests/waiver tests/properties tests/mechanisms tests/ops tests/identities

lint: $(VENV)/.installed-dev ## Check style and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

clean: ## Remove caches and build leftovers; .venv and runs stay
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The first Python that is new enough and can make a virtual environment. A .venv that works is kept.
$(VENV)/.python:
	@if $(PYTHON) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  touch $@; exit 0; \
	fi; \
	for candidate in python3.13 python3.12 python3.11 python3; do \
	  $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  if said=$$($$candidate -m venv --clear $(VENV) 2>&1); then \
	    echo "Made $(VENV) with $$candidate."; touch $@; exit 0; \
	  fi; \
	  echo "$$candidate -m venv failed: $$said" >&2; \
	done; \
	rm -rf $(VENV); \
	echo "Headway needs Python 3.11 or newer with its venv module, and none was found:" \
	  "install it (on Debian: apt-get install python3-venv) and run make again." >&2; \
	exit 1

# torch first and alone: nothing that comes later may pull in another build of it.
$(VENV)/.installed: $(PINS) | $(VENV)/.python
	@echo "Installing Headway (a few minutes the first time; torch is large) ..."
	@$(PIP_INSTALL) setuptools "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	@$(PIP_INSTALL) --no-build-isolation --editable '.[all]'
	@touch $@
	@echo "Installed: $(VENV)/bin/headway --help shows what it does."

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP_INSTALL) --no-build-isolation --editable '.[all,dev]'
	@touch $@

$(OLDEST)/.installed: constraints-oldest.txt $(VENV)/.installed-dev
	@echo "Installing the oldest transformers that is supported into $(OLDEST) ..."
	@$(PYTHON) -m venv --clear $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints-oldest.txt torch transformers pytest pytest-xdist hypothesis
	@touch $@
