# Each command does all its own set-up, in .venv beside this file and in the user's cache for built programs.
#
#   make demo       the orders example on an embedded Valkey, without Docker or a cluster
#   make test       unit tests, and tests on real Redis, Valkey, a collector and a Kubernetes API server
#   make e2e        a whole single-node Kubernetes: images, chart, pods (root, Debian packages; see tests/cluster)
#   make chaos      kill, cut, freeze and flush everything, FAULTS times or for SECONDS, and count (docs/reliability.md)
#   make bench      speed beside bare loops, go-redis, FastStream and taskiq, into benchmarks/RESULTS.md (6 minutes)
#   make check      linters, types, import contracts, generated files
#   make generate   what is computed from the models: CRD, docs/reference.md
#   make lock       pin dependencies anew (UPGRADE=1 takes newer ones); needs uv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= $(firstword $(foreach v,python3 python3.14 python3.13 python3.12 python3.11,$(shell $(v) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(v))))
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

help:
	@sed -n 's/^#   make/make/p' Makefile

.venv/made:
	@test -n "$(PYTHON)" || { echo 'no Python 3.11 or newer on PATH; name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/dev: .venv/made locks/dev.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/development: .venv/dev locks/development.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/development.txt
	@touch $@

demo: .venv/dev
	$(BIN)/python examples/demo.py

test: .venv/development
	$(PYTEST) -n 3 --dist loadfile -m 'not e2e and not chaos' tests

e2e: .venv/development
	$(PYTEST) -m e2e -s tests

FAULTS ?= 10000
SECONDS ?= 1800
chaos: .venv/development
	$(PYTEST) -m chaos -s tests/reliability
	$(BIN)/python -m tests.reliability.chaos --faults $(FAULTS) --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: .venv/development
	$(BIN)/python -m benchmarks

generate: .venv/development
	$(BIN)/python -m tools.generate

check: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.generate --check
	$(BIN)/hadolint --ignore DL3008 --ignore DL3013 Dockerfile examples/orders/Dockerfile

lock:
	sh tools/lock.sh

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist

.PHONY: help demo test e2e chaos bench generate check lock clean
