# Targets that people and CI share. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SELFGEN := $(BIN)/selfgen

.DEFAULT_GOAL := help
.PHONY: help install install-superset jars demo up down test test-unit lint bench chaos compose-check clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(VENV)/.ready ## the pipeline's environment, from requirements.lock

# compiled here: where Python may not write bytecode, each process would compile all that it imports (4 s for a worker)
$(VENV)/.ready: requirements.lock pyproject.toml stack/prerequisites.py
	@$(PYTHON) stack/prerequisites.py
	@echo "installing the pipeline's environment (about a minute the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@$(BIN)/python -m compileall -q selfgen flink_jobs kafka_consumers couchbase_admin stack benchmarks
	@touch $@

install-superset: .venv-superset/.ready ## Superset's own environment, from superset/requirements.lock

.venv-superset/.ready: superset/requirements.lock $(VENV)/.ready
	@echo "installing Superset's environment"
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-superset
	@VIRTUAL_ENV=.venv-superset $(BIN)/uv pip sync --quiet --compile-bytecode superset/requirements.lock
	@.venv-superset/bin/python stack/superset/prepare.py --template
	@touch $@

jars: $(VENV)/.ready ## the servers' jars, by Maven
	@$(SELFGEN) stack install

demo: install install-superset ## everything, once: real measurements through every process, checked
	@$(SELFGEN) demo

up: install install-superset ## start the local stack
	@$(SELFGEN) stack up

down: install ## stop it, leave no process
	@$(SELFGEN) stack down

test: install install-superset test-unit ## unit, integration and end-to-end tests, on real servers that they start
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/integration
	@$(BIN)/pytest tests/e2e

test-unit: install ## the tests that need no server
	@$(BIN)/pytest --numprocesses 2 tests/unit

lint: install ## style, imports, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

bench: install ## every benchmark, tables and build/bench/*.json
	@$(SELFGEN) bench all

chaos: install install-superset ## every failure test, tables and build/chaos/*.json
	@$(SELFGEN) chaos all

clean: ## remove what was built (keeps package caches)
	@rm -rf build $(VENV) .venv-superset
