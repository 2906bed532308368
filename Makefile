# One command each. Everything installed comes from hash-pinned locks in requirements/ and lands in .venv;
# the servers that tests start land in .services.

PYTHON ?= $(firstword $(shell command -v python3.11 python3) python3)
BIN := .venv/bin
UV := uv==0.9.30

.DEFAULT_GOAL := help
.PHONY: help install torch run services check format test test-tools soak bench lock clean

help:  ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/runtime.stamp  ## the daemon into .venv, nothing for development

torch: .venv/torch.stamp  ## what a hosted committee needs on top, 5 GB: the registry's Linux wheel brings CUDA

run: install  ## the shelf camera story on the embedded default, in the foreground
	$(BIN)/driftd demo

services: .venv/dev.stamp  ## fetch and build the real servers of the tests into .services
	$(BIN)/python -m tests.services install

check: .venv/dev.stamp  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev.stamp  ## rewrite the code as the formatter wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A server that cannot be had skips its tests by name; where DRIFTD_REQUIRE_SERVICES=1 it fails them.
test: .venv/dev.stamp .venv/torch.stamp  ## all tests, real servers included; ARGS="-k kafka" for some
	$(BIN)/python -m tests.services install || [ -z "$$DRIFTD_REQUIRE_SERVICES" ]
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# 2 GB and two minutes to install, one to start: too much for each change, so CI does not run it.
test-tools: .venv/dev.stamp  ## out and back with a real Label Studio, tracking with a real MLflow
	$(BIN)/python -m tests.services install label-studio mlflow
	DRIFTD_TOOLS=1 $(BIN)/python -m pytest tests/tools $(ARGS)

soak: .venv/dev.stamp  ## 100 kills, 20 seeds of the calm shelf, 1,000 items to each labeling format; half an hour
	DRIFTD_REQUIRE_SERVICES=1 DRIFTD_KILLS=100 DRIFTD_CALM_SEEDS=20 DRIFTD_ROUND_TRIP=1000 \
		$(BIN)/python -m pytest tests/faults/test_crashes.py tests/monitor/demo/test_calm.py \
		tests/alerting/test_back.py $(ARGS)

bench: services  ## the figures of the README, as ratios to their floors
	$(BIN)/python -m benchmarks $(ARGS)

# Without --upgrade: what is pinned stays pinned unless pyproject.toml forces it. `make lock ARGS=--upgrade` renews.
lock: .venv/lock.stamp  ## pin the dependencies anew after a change in pyproject.toml
	$(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) --group dev -c requirements/runtime.txt -o requirements/dev.txt
	$(COMPILE) --group build -o requirements/build.txt
	$(COMPILE) --group label-studio -o requirements/label-studio.txt
	$(COMPILE) --group mlflow -o requirements/mlflow.txt
	$(COMPILE) pyproject.toml --extra torch -c requirements/dev.txt -c requirements/build.txt -o requirements/torch.txt

COMPILE = $(BIN)/uv pip compile $(ARGS) -q --python-version 3.11 --generate-hashes --no-header --no-annotate

clean:  ## remove what was made, but for .services, which takes minutes to fetch
	rm -rf .venv build *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("driftd needs Python 3.11 or newer; \
	this is " + sys.version.split()[0] + ". Name another: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python lacks venv: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

# setuptools is pinned like the rest, so building the command `driftd` asks no registry for anything unpinned.
.venv/runtime.stamp: requirements/build.txt requirements/runtime.txt pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	$(BIN)/pip install -q --no-index --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev.stamp: .venv/runtime.stamp requirements/dev.txt
	$(BIN)/pip install -q --require-hashes -r requirements/dev.txt
	@touch $@

# Uncompiled: Python compiles the tenth that is imported, at its first import.
.venv/torch.stamp: .venv/runtime.stamp requirements/torch.txt
	$(BIN)/pip install -q --no-compile --require-hashes -r requirements/torch.txt
	@touch $@

.venv/lock.stamp: | .venv/bin/pip
	$(BIN)/pip install -q $(UV)
	@touch $@
