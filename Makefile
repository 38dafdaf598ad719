# `make help` lists the targets. Everything runs in .venv, which the first target that needs it builds.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export FTF_SHARED_DATA ?= $(abspath ../shared/data)

.PHONY: help install demo serve test test-quick check format bench clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Build .venv with the pinned packages (a second call does nothing)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; try make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or later is needed; try make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]" --group dev
	@touch $@

demo: $(STAMP) ## Run the whole loop on the sample data: dataset, training, evaluation, verdict, export
	$(BIN)/finetuneflow demo

serve: $(STAMP) ## Start the web interface
	@if [ -f src/finetuneflow/api/app.py ]; then exec $(BIN)/finetuneflow serve; else \
	  echo "The web interface is not built yet; the whole loop runs from the command line: make demo, or" \
	    "$(BIN)/finetuneflow --help" >&2; exit 1; fi

test: $(STAMP) ## Run all tests, the slow ones too
	$(BIN)/python -m pytest

test-quick: $(STAMP) ## Run the tests that need neither torch nor processes
	$(BIN)/python -m pytest -m "not slow and not integration and not e2e" tests/unit tests/architecture tests/contract

check: $(STAMP) ## Lint, format, types, import contracts, architecture tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/architecture

format: $(STAMP) ## Put the code in shape
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure the promised speeds
	$(BIN)/python benchmarks/speed.py

clean: ## Remove .venv, caches and builds (never a workspace)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
