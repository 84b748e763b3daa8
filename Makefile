# The one face of the repository: make dev, make test. Needs git, make, Python 3.11 or newer and its venv module.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help dev test lint unit parts bench drills lock clean

# The system's own Python where it will do: distributions build theirs with profile feedback, and a build without it
# takes twice the CPU for every message.
PYTHON ?= $(shell for python in /usr/bin/python3 python3; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done \
	|| echo python3)
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
PYTEST_ARGS ?=

help: ## What there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: $(STAMPS)/installed ## Run everything in this terminal: API, SMTP, inbox
	@exec $(BIN)/pigeonry dev $(ARGS)

test: lint unit ## All checks and all tests

lint: $(STAMPS)/installed ## Style, formatting, types, import contracts
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(STAMPS)/installed parts
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q $(PYTEST_ARGS)

parts: $(STAMPS)/installed ## Real parts for the tests: from Debian when root, Cassandra from Maven Central
	@sh tests/install-parts
	@$(BIN)/python -m pigeonry.testing.cassandra .parts

bench: $(STAMPS)/installed parts ## Measure the relay, the API, a batch, a recovery, dot-sent, and what a cluster costs and stands
	$(BIN)/python bench/relay.py
	$(BIN)/python bench/ingest.py
	$(BIN)/python bench/batch.py
	$(BIN)/python bench/recovery.py
	$(BIN)/python bench/dot_sent.py
	$(BIN)/python bench/cluster_cost.py
	$(BIN)/python bench/takeover.py
	$(BIN)/python bench/duplicates.py
	$(BIN)/python bench/fencing.py

drills: $(STAMPS)/installed parts ## The full drills; figures and timelines go to docs/drills, to be committed
	@mkdir -p docs/drills
	$(BIN)/pigeonry drill durability --messages 1000000 --kills 200 --power-cuts 50 \
		--measured "commit $$(git describe --always --dirty)" --record docs/drills/durability.txt
	$(BIN)/pigeonry drill d2014 --measured "commit $$(git describe --always --dirty)" --record docs/drills/d2014.txt

lock: $(STAMPS)/uv ## Resolve the dependencies anew: all of them, and those that a node in production has
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --group dev --extra cassandra \
		--output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --extra cassandra \
		--constraint requirements.lock \
		--output-file requirements-serve.lock pyproject.toml

clean: ## Remove the environment and all caches
	rm -rf $(VENV) $(STAMPS) .parts .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(STAMPS)/uv:
	@mkdir -p $(STAMPS)
	@echo "Making $(VENV) with the locked dependencies; this takes half a minute, once." >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

# The lock first, hashes and all; then this project itself, without looking at its dependencies again. All is compiled
# here: the first start takes a third less time.
$(STAMPS)/installed: $(STAMPS)/uv requirements.lock pyproject.toml
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@
