# `make run` and `make test` are the only set-up there is: both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help run test lint audit-dependencies format schemas kube faults soak bench bench-smoke bench-peers clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 20

$(STAMP): pyproject.toml constraints.txt app/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11: set PYTHON to a newer one, as in make run PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages of pyproject.toml into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev]'
	@touch $@

run: $(STAMP)  ## the broker, a worker, the API and the demo, until Ctrl-C
	@exec $(BIN)/runbooks run

test: $(STAMP)  ## all tests, on the real parts that can be had here
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
	  --cov=app.core --cov-branch --cov-fail-under=100 --cov-report=term-missing:skip-covered

lint: $(STAMP)  ## ruff, mypy, import-linter, bandit
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/bandit -q -c pyproject.toml -r app
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

audit-dependencies: $(STAMP)  ## known weaknesses of the pinned packages; asks a public database, so it needs the network
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	@$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip --strict

format: $(STAMP)
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

kube:  ## build the test cluster, a real Kubernetes control plane (once, 5 to 10 minutes; needs Go 1.26)
	@tests/kube/build.sh

FAULTS ?= 200
SEED ?= 1
MINUTES ?= 30
RATE ?= 6
HARNESS = PYTHONPATH=.:tests:tests/system $(BIN)/python -m faults --rate $(RATE)

faults: $(STAMP)  ## real parts under load and faults: FAULTS=200 SEED=1 RATE=6 (docs/faults.md)
	@$(HARNESS) --faults $(FAULTS) --seed $(SEED)

soak: $(STAMP)  ## how the workers' memory grows under load: MINUTES=30 RATE=6
	@$(HARNESS) --soak $(MINUTES)

bench: $(STAMP)  ## all figures, ours beside others in turn, into benchmarks/results: ROUNDS=3 ONLY="matching audit"
	@$(BIN)/python benchmarks/suite.py $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

bench-smoke: $(STAMP)  ## every benchmark with small numbers, in about a minute: do they still run?
	@$(BIN)/python benchmarks/suite.py --short

PEER_PYTHON ?= python3.12
PEER := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/infrasage-runbooks/ansible-rulebook

bench-peers:  ## install what benchmarks/rulebook.py stands beside, outside the tree (120 MB; Python 3.12, Java 17)
	@test -x $(PEER)/bin/python || $(PEER_PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check \
	  ansible-rulebook==1.3.2 'ansible-core>=2.19,<2.21' 'ansible-runner>=2.4,<3'
	@$(PEER)/bin/ansible-rulebook --version

schemas: $(STAMP)  ## write schemas/ from the models
	@$(BIN)/python -m app.cli schemas

clean:  ## forget the virtual environment and the demo's data
	rm -rf $(VENV) .run
