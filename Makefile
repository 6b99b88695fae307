# The few targets there are: `make help`.
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
KEEP ?=
TESTS ?= tests
MINUTES ?= 60
FAULTS := tests/faults tests/edge_agent/identity/test_renew_interrupted.py
# Keyed by what the environment is made of: a changed pin or dependency makes a new stamp.
STAMP := $(VENV)/.installed-$(shell cat constraints/dev.txt pyproject.toml | cksum | tr ' ' '-')

COUNTS := benchmarks/results/tests.json

.PHONY: help demo test test-full faults soak lint format clean constraints system-packages

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## run the whole loop on this machine [KEEP=1 leaves it running] [SEED=n]
	$(BIN)/fleet demo --seed $(SEED) $(if $(KEEP),--keep)

test: lint system-packages ## ruff, mypy, import-linter, pytest [TESTS=path]
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/run-tests $(TESTS)

test-full: lint system-packages ## the same in full size, hours; writes benchmarks/results/tests.json [TESTS=path replaces those rows]
	$(if $(filter tests,$(TESTS)),rm -f $(COUNTS))
	EDGELOOP_SIZE=full EDGELOOP_COUNTS=$(COUNTS) EDGELOOP_FAULTS_RESULTS=benchmarks/results/faults.json \
		PATH="$(CURDIR)/$(BIN):$$PATH" scripts/run-tests --timeout 7200 $(TESTS)

faults: $(STAMP) system-packages ## the fault tests in full size, about half an hour; writes benchmarks/results/faults.json
	EDGELOOP_SIZE=full EDGELOOP_FAULTS_RESULTS=benchmarks/results/faults.json $(BIN)/python -m pytest -q $(FAULTS)

soak: $(STAMP) system-packages ## an hour at half load with swaps, outages and new brokers; writes benchmarks/results/soak.json [MINUTES=n]
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

lint: $(STAMP) ## ruff, mypy (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

system-packages: ## Mosquitto, PostgreSQL, Chromium, strace and promtool, which some tests use
	@scripts/system-packages

constraints: $(STAMP) ## write constraints/ anew from the installed environment
	$(BIN)/python scripts/write-constraints

clean: ## remove the environment, the demo's files and caches
	rm -rf $(VENV) .demo demo-report.json .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist

$(STAMP): constraints/dev.txt pyproject.toml scripts/find-python
	@python="$$(scripts/find-python)"; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/dev.txt -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@
