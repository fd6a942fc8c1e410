# Everything a person does with VERA's source. `make` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The Python that builds .tools and .venv, 3.11 or newer: make setup PYTHON=python3.12
PYTHON ?= python3
# Files go to workers whole, so that each worker starts each server once.
PYTEST_FLAGS ?= -n 2 --dist loadfile
# Parts and sizes of what is measured: make bench BENCH_FLAGS="--only json --files 10000"
BENCH_FLAGS ?=
# How long is fuzzed: make fuzz FUZZ_SECONDS=3600
FUZZ_SECONDS ?= 300
BIN := .venv/bin
UV := .tools/bin/uv

.PHONY: help setup demo dev test lint bench fuzz soak clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.synced ## Install the locked dependencies into .venv (the other targets do it when needed)

demo: .venv/.synced ## Migrate real files through Dagster into an embedded S3, attack them, read them back
	@$(BIN)/python -m vera_assets.demo

dev: .venv/.synced ## Keep the demo running, with the Dagster UI on http://127.0.0.1:3000
	@$(BIN)/python -m vera_assets.dev

test: lint .tools/promtool ## Lint, then run all tests (as root, or with sudo, it installs the servers that they need)
	scripts/system-packages
	$(BIN)/pytest $(PYTEST_FLAGS)

lint: .venv/.synced ## Check style, types, layers and the changelog's fragments
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/towncrier build --draft --version next >/dev/null

bench: .venv/.bench ## Measure packing and reading beside peers (about 10 minutes), print ratios
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

fuzz: .venv/.fuzz ## Search for inputs that do harm, FUZZ_SECONDS long (300)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m tests.fuzz

soak: .venv/.synced ## Run the long tests that `make test` leaves out
	$(BIN)/pytest -m soak --timeout 0

clean: ## Remove everything that make made
	rm -rf .venv .tools .demo .dev .bench .fuzz dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find vera_core vera_assets tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Stamps: each is younger than what it was made from, so a second run costs nothing.
.venv/.synced: pyproject.toml uv.lock .tools/.installed
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --frozen --python $(PYTHON)
	@touch $@

.venv/.bench: .venv/.synced
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --frozen --inexact --group bench --python $(PYTHON)
	@touch $@

.venv/.fuzz: .venv/.synced
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --frozen --inexact --group fuzz --python $(PYTHON)
	@touch $@

.tools/promtool: scripts/promtool .tools/.installed
	scripts/promtool
	@touch $@

.tools/.installed: scripts/uv.txt scripts/check-python
	@scripts/check-python $(PYTHON)
	$(PYTHON) -m venv --clear .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r scripts/uv.txt
	@touch $@
