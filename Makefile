# The commands of dcsync's development. `make` alone lists them.

VENV ?= .venv
BIN := $(VENV)/bin
# What `make test` hands to pytest, e.g. ARGS="tests/core -k names". Without it the core's tests are run first, and have to
# cover all of the core by themselves: to trace the other tests as well takes half as long again.
ARGS ?=
COVERAGE := --cov=dcsync.core --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

# python3 where it is new enough, else the newest that has its number in its name.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo test mutants torture bench format lint types imports check lock clean

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-16s %s\n", $$1, $$2 }'

demo: $(VENV)/.package ## Serve a stand-in of the API on loopback and mirror it into a folder
	@DCSYNC_DEMO_AGAIN='make demo' $(BIN)/dcsync demo

test: $(VENV)/.dev $(VENV)/.debian ## Run all tests (ARGS="tests/core -k names" runs some)
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	status=0; \
	$(BIN)/pytest tests/core $(COVERAGE) || status=1; \
	$(BIN)/pytest --ignore=tests/core || status=1; \
	exit $$status
endif

mutants: $(VENV)/.dev ## Put small wrong changes into MODULE=dcsync/core/quota.py; its tests (or TESTS=…) have to notice
	@test -n "$(MODULE)" || { echo "make mutants needs a MODULE, such as dcsync/core/quota.py" >&2; exit 1; }
	@$(BIN)/python -m scripts.mutants $(MODULE) $(TESTS)

torture: $(VENV)/.dev $(VENV)/.debian $(VENV)/.torture ## Kill, cut the power and break the disk, as root (SLICE=1: CI's part; SEED=N again; FIGURES=file)
	@DCSYNC_TORTURE_SLICE=$(SLICE) DCSYNC_TORTURE_SEED=$(SEED) DCSYNC_TORTURE_FIGURES=$(FIGURES) \
		$(BIN)/pytest $(if $(ARGS),$(ARGS),tests/torture)

bench: $(VENV)/.dev $(VENV)/.debian ## Measure what an extract costs, beside curl, aria2, rclone, wget, unzip (ARGS="days one_file" runs some)
	@PYTHONPATH=. $(BIN)/python bench/run.py $(ARGS)

format: $(VENV)/.dev ## Put the code in its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

lint: $(VENV)/.dev ## Look for mistakes and for code out of its form
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/python scripts/prose.py

types: $(VENV)/.dev ## Check the types
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check that imports only go down
	$(BIN)/lint-imports --no-logo

check: lint types imports test ## All of the checks, as CI runs them

lock: $(VENV)/.dev ## Write requirements-dev.txt anew (UPGRADE=--upgrade for newer releases; needs uv)
	@PATH="$(CURDIR)/$(BIN):$$PATH"; command -v uv >/dev/null || { echo "make lock needs the program uv on PATH" >&2; exit 1; }; \
	cp requirements-dev.txt requirements-dev.new && \
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev $(UPGRADE) \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file requirements-dev.new pyproject.toml && \
	if grep -nE '://|^ *(--(index|extra|find|trusted)|-e|/)|file:' requirements-dev.new; then \
		echo "These lines name a host or a machine's path: not written" >&2; rm requirements-dev.new; exit 1; fi && \
	{ echo "# The pinned development set, for every Python from 3.11 on. Made by \`make lock\`; do not edit."; \
		grep -v '^#' requirements-dev.new; } > requirements-dev.txt && rm requirements-dev.new

clean: ## Remove what the commands left behind
	rm -rf $(VENV) build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "dcsync needs Python 3.11 or newer; none of python3, python3.11 … python3.14 is" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each stamp says that what it is named for is installed as its sources say.
# --no-deps: the set is whole, and older pips look for extras (coverage[toml]) past the pin, which then has no hash.
$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@ $(VENV)/.package

$(VENV)/.torture: tests/torture/debian-packages.txt | $(BIN)/python
	@scripts/debian-packages tests/torture/debian-packages.txt
	@touch $@

# Only what a user gets. With the pinned set there already, nothing is left to do.
$(VENV)/.package: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.debian: tests/debian-packages.txt | $(BIN)/python
	@scripts/debian-packages tests/debian-packages.txt
	@touch $@
