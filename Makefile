# The one face of the project: see CONTRIBUTING.md.
# Needs git, make, Python 3.11 and python3-venv; everything else is installed by the targets themselves.

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .stamps
PARTS := postfix nsd unbound chromium swaks wrk opendkim opendkim-tools

.PHONY: help test lint bench lock parts clean

help:
	@echo 'make test | lint | bench | lock | clean'

test: $(STAMP)/installed parts lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q

lint: $(STAMP)/installed
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(STAMP)/installed parts
	$(BIN)/python bench/relay.py

lock: $(STAMP)/uv
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --group dev pyproject.toml -o requirements.lock

# Real parts from Debian, as root only. Their services are not started: the tests run their own, on loopback.
parts:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  missing=; for part in $(PARTS); do \
	    dpkg-query -W -f '$${Status}' "$$part" 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$part"; done; \
	  if [ -n "$$missing" ]; then \
	    echo "installing from Debian:$$missing"; \
	    made=; [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; \
	      chmod 755 /usr/sbin/policy-rc.d; made=1; }; \
	    apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing \
	      || echo "MISSING REAL PARTS:$$missing could not be installed"; \
	    [ -z "$$made" ] || rm -f /usr/sbin/policy-rc.d; \
	  fi; \
	else echo 'not root on Debian: real parts are used where they are, and named where they are missing'; fi

$(STAMP)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv==$(UV_VERSION)
	mkdir -p $(STAMP) && touch $@

$(STAMP)/installed: $(STAMP)/uv requirements.lock pyproject.toml
	$(BIN)/python -m uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/python -m uv pip install -q --python $(BIN)/python --no-deps -e .
	touch $@

clean:
	rm -rf .venv $(STAMP) .pytest_cache .mypy_cache .ruff_cache
