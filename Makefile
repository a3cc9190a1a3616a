# make demo   a simulated Sentinel-2 archive, mapped end to end into demo/
# make test   style, types and tests: what continuous integration runs
# make faults   100,000 simulated schedules of failures against the engine, 20,000 foreign documents, real faults; an hour
# make checkpoint   the built-in model again, from a seed, into out/spex-s2-tiny/last; hours on a CPU, and resumable
#
# They create .venv when it is missing and install again only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test faults checkpoint lint format wheel clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/spex demo --output demo $(if $(ACTORS),--actors $(ACTORS))

test: lint
	$(BIN)/python -m pytest -q

faults: $(STAMP)
	$(BIN)/python -m tests.pipeline.engine.schedules --count 100000
	SPEX_FAULTS=1 $(BIN)/python -m pytest -q -m long
	$(BIN)/python -m tests.faults.foreign_documents --count 20000
	$(BIN)/python -m tests.faults.real_machines --trials 60

checkpoint: $(STAMP)
	$(BIN)/spex train workflows/training/spex-s2-tiny.yaml $(if $(WORKERS),--workers $(WORKERS))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What ray_cluster.yaml installs on every node. The nodes are Linux on x86-64; a wheel made elsewhere is without loops in C.
wheel: $(STAMP)
	$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),,SPEX_PIXEL_LOOPS=0) \
	  $(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps -w dist .

# Touched last: an interrupted installation leaves no stamp, so the next call installs again.
$(STAMP): pyproject.toml constraints.txt setup.py pipeline/machine/_pixel_loops.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) with the versions of constraints.txt: some minutes, once."
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
