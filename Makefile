# Every target installs what it needs: Python packages into .venv, built programs into ~/.cache/streamconsumer.
#
#   make demo          run the orders example on an embedded Valkey, without Docker or a cluster
#   make test          run unit tests and tests on real Redis and Valkey servers; needs git, make and Python
#   make test-cluster  run tests on a Kubernetes API server, Helm and a collector, and the slow tests; needs Go
#   make e2e           run tests on a single-node Kubernetes: images, chart, pods; needs root (see tests/cluster)
#   make chaos         inject FAULTS faults into each SERVER, or for SECONDS, and measure the figures of docs/reliability.md
#   make simulate      run the engine with virtual time on SEEDS seeds, or for SECONDS seconds (docs/reliability.md)
#   make model         explore the model of the protocol, and take random walks for SECONDS seconds (docs/reliability.md)
#   make mutants       change the engine mechanically and list the changes that no test notices (ONLY=claimer.py; 1 hour)
#   make bench         compare speed with bare loops, go-redis, FastStream and taskiq (benchmarks/RESULTS.md; 6 minutes)
#   make check         run linters, type checkers, import contracts, and the checks of generated files and wording
#   make fix           fix what linter and formatter can fix
#   make generate      write the files that are computed from the models: CRD, docs/reference.md
#   make lock          pin dependencies again (UPGRADE=1 for newer versions); needs uv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= $(firstword $(foreach v,python3 python3.14 python3.13 python3.12 python3.11,$(shell $(v) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(v))))
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# pip compiles on one core. compileall uses all cores, and skips a file that does not compile, as pip does.
# Of the excluded packages, processes import few modules.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/(pip|pygments|setuptools|kubernetes/.*/(api|models))/[^_]' .venv/lib src || true
# A user's own `user = true` in pip.conf would make pip refuse the virtual environment.
export PIP_USER := 0
# Without bytecode on disk, each process of a test compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

help:
	@sed -n 's/^#   make/make/p' Makefile

# The pip of Python 3.11 needs twice the processor time of the pinned pip, which therefore comes first.
.venv/made:
	@test -n "$(PYTHON)" || { echo 'found no Python 3.11 or newer on PATH; name its path: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(INSTALL) --require-hashes -r locks/build.txt
	@touch $@

.venv/%: .venv/made locks/%.txt pyproject.toml
	$(INSTALL) --require-hashes -r locks/$*.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	$(COMPILE)
	@touch $@

demo: .venv/dev
	$(BIN)/python examples/demo.py

# Most tests wait more than they compute, so there are three workers for each of the two cores that CI has.
test: .venv/test
	$(PYTEST) -n 6 --dist worksteal -m 'not check and not cluster and not slow and not e2e and not chaos' tests

# The build is a step of its own, because pytest-xdist does not show the output of its workers.
test-cluster: .venv/development
	$(BIN)/python -m tests.cluster build --for $@
	$(PYTEST) -n 3 --dist loadfile -m '(cluster or slow) and not e2e and not chaos' tests

e2e: .venv/development
	$(BIN)/python -m tests.cluster build --for $@
	$(PYTEST) -m e2e -s tests

chaos: .venv/development
	$(PYTEST) -m chaos -s tests/reliability tests/hostile tests/operator
	$(BIN)/python -m tests.reliability.chaos --faults $(or $(FAULTS),10000) --seconds $(or $(SECONDS),1800) \
	  --server $(or $(SERVER),all) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.reliability.acceptance $(if $(KILLS),--kills $(KILLS))

simulate: .venv/development
	$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(SERVER),--server $(SERVER)) $(if $(FAULTS),--faults $(FAULTS)) \
	  $(if $(SEED),--seed '$(SEED)') $(if $(MINIMIZE),--minimize) $(if $(REPEAT),--repeat $(REPEAT)) \
	  $(if $(COVERAGE),--coverage) $(if $(FIND),--find) $(if $(PLAN),--plan $(PLAN))

model: .venv/test
	$(BIN)/python -m tests.protocol_model $(if $(SECONDS),--seconds $(SECONDS))

mutants: .venv/development
	$(BIN)/python -m tests.mutants $(ONLY)

bench: .venv/development
	$(BIN)/python -m tests.cluster build --for $@
	$(BIN)/python -m benchmarks

fix: .venv/development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: .venv/development
	$(BIN)/python -m tools.generate

check: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.generate --check
	$(BIN)/python -m tools.prose
	$(PYTEST) -m check tests/test_documentation_types.py
	$(PYTEST) -q -p no:cacheprovider tests/redis_client/test_lua.py -k "compiles or function"
	$(BIN)/hadolint --ignore DL3008 --ignore DL3013 Dockerfile examples/orders/Dockerfile

lock:
	sh tools/lock.sh

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist

.PHONY: help demo test test-cluster e2e chaos simulate model mutants bench generate check fix lock clean
