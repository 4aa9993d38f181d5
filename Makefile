# The commands for the development of dcsync. `make` without a target lists them.

VENV ?= .venv
BIN := $(VENV)/bin
# Arguments of `make test` for pytest, e.g. ARGS="tests/core -k names". Without them the core's tests run first and must
# cover the whole core on their own, because tracing the other tests too takes half as long again.
ARGS ?=
# Most tests wait rather than work, so there are more workers than processors.
WORKERS ?= $(shell echo $$((2 * $$(nproc))))
# CI sets AGAIN=1: a test outside of the core that fails runs once more, with nothing beside it. If it passes then, the run
# passes, and its name is in the log.
AGAIN ?=
# A worker that a test hangs for ever is ended (tests/conftest.py). The test is tried again in a new one, at most twice.
BESIDE := -n $(WORKERS) --dist loadgroup --max-worker-restart=2
COVERAGE := --cov=dcsync.core --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

# python3 if it is new enough, otherwise the newest python3.N.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# The tests start hundreds of interpreters. Without bytecode each of them would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test systems mutants torture bench dist docs format lint types imports check lock clean

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-16s %s\n", $$1, $$2 }'

demo: $(VENV)/.package ## Serve a stand-in for the API on loopback and mirror it into a folder
	@DCSYNC_DEMO_AGAIN='make demo' $(BIN)/dcsync demo

test: $(VENV)/.dev $(VENV)/.debian ## Run the tests (ARGS="tests/core -k names" runs some)
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	status=0; \
	$(BIN)/pytest tests/core $(BESIDE) --durations=10 $(COVERAGE) || status=1; \
	$(BIN)/pytest -p tests.rigs.again --ignore=tests/core $(BESIDE) --durations=25 || { \
		[ -n "$(AGAIN)" ] && [ -s .pytest_cache/again ] && echo "These tests failed, and now run once more, alone:" && \
		cat .pytest_cache/again && $(BIN)/pytest -p tests.rigs.again --again --ignore=tests/core; } || status=1; \
	exit $$status
endif

systems: $(VENV)/.dev $(VENV)/.debian $(VENV)/.wheels $(VENV)/.bare ## Build a release, and install and run it in systems that boot, as root
	$(BIN)/pytest --durations=10 tests/systems

mutants: $(VENV)/.dev ## Make small wrong changes to MODULE=dcsync/core/quota.py, which its tests (or TESTS=…) must detect
	@test -n "$(MODULE)" || { echo "make mutants needs a MODULE, such as dcsync/core/quota.py" >&2; exit 1; }
	@$(BIN)/python -m scripts.mutants $(MODULE) $(TESTS)

torture: $(VENV)/.dev $(VENV)/.debian $(VENV)/.torture ## Kill, cut the power and break the disk, as root (SLICE=1: CI's part, SEED=N: repeat a run, FIGURES=file)
	@DCSYNC_TORTURE_SLICE=$(SLICE) DCSYNC_TORTURE_SEED=$(SEED) DCSYNC_TORTURE_FIGURES=$(FIGURES) \
		$(BIN)/pytest $(BESIDE) $(if $(ARGS),$(ARGS),tests/torture)

bench: $(VENV)/.dev $(VENV)/.debian ## Compare dcsync with curl, aria2, rclone, wget and unzip (ARGS="days one_file" runs some)
	@PYTHONPATH=. $(BIN)/python bench/run.py $(ARGS)

dist: $(VENV)/.wheels ## Build the files of a release into dist/ (ARGS="wheel deb" builds some)
	@$(BIN)/python -m scripts.dist --wheels $(VENV)/wheels $(ARGS)

docs: $(VENV)/.dev ## Build the documentation site into site/, and check every link
	@$(BIN)/python -m scripts.docs

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

lint: $(VENV)/.dev ## Find mistakes and unformatted code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/python scripts/prose.py

types: $(VENV)/.dev ## Check the types
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check that imports only go down
	$(BIN)/lint-imports --no-logo

check: lint types imports systems test ## Run all checks, as CI does

lock: $(VENV)/.dev ## Rewrite requirements-dev.txt with uv (UPGRADE=--upgrade for newer releases)
	@PATH="$(CURDIR)/$(BIN):$$PATH"; command -v uv >/dev/null || { echo "make lock needs the program uv on PATH" >&2; exit 1; }; \
	cp requirements-dev.txt requirements-dev.new && \
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev $(UPGRADE) \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file requirements-dev.new pyproject.toml && \
	if grep -nE '://|^ *(--(index|extra|find|trusted)|-e|/)|file:' requirements-dev.new; then \
		echo "requirements-dev.txt was not written: these lines contain a host or a local path" >&2; rm requirements-dev.new; exit 1; fi && \
	{ echo "# The pinned development set, for every Python from 3.11 on. Made by \`make lock\`; do not edit."; \
		grep -v '^#' requirements-dev.new; } > requirements-dev.txt && rm requirements-dev.new

clean: ## Delete everything that these commands created
	rm -rf $(VENV) build dist site .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "dcsync needs Python 3.11 or newer, but none of python3, python3.11 … python3.14 is new enough" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each stamp file means that its packages are installed as its prerequisites say.
# --no-deps: the set is complete, and older pips resolve extras (coverage[toml]) without their pin, and thus their hash.
$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@ $(VENV)/.package

# What the packages contain, as pinned. Only this step of `make dist` needs the network, and the tests do not.
$(VENV)/.wheels: $(VENV)/.dev scripts/dist/pinned.py
	@rm -rf $(VENV)/wheels && mkdir $(VENV)/wheels
	$(BIN)/python -m scripts.dist.pinned > $(VENV)/wheels/requirements.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
		--dest $(VENV)/wheels -r $(VENV)/wheels/requirements.txt
	@touch $@

# The packages of a bare Debian. The tests install it from them, without the network.
$(VENV)/.bare: tests/bare-packages.txt | $(BIN)/python $(VENV)/.debian
	@scripts/bare-debian $< $(VENV)/bare/packages
	@touch $@

$(VENV)/.torture: tests/torture/debian-packages.txt | $(BIN)/python
	@scripts/debian-packages tests/torture/debian-packages.txt
	@touch $@

# Only the packages that users install. If the pinned set is already installed, this does nothing.
$(VENV)/.package: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.debian: tests/debian-packages.txt | $(BIN)/python
	@scripts/debian-packages tests/debian-packages.txt
	@touch $@
