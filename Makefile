# `make help` lists the targets. PYTHON=… picks the interpreter that makes .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps

# The first interpreter on the path that all dependencies have wheels for (TensorFlow lags behind
# new Pythons), else python3, which is then checked below.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && echo "$$p" && exit; done; echo python3)

# Tested versions, if there are any for this Python; otherwise pip chooses, within setup.py's bounds.
# `make CONSTRAINTS= …` does without them.
PYTAG = $(shell if [ -x $(BIN)/python ]; then p=$(BIN)/python; else p="$(PYTHON)"; fi; \
	"$$p" -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS := $(wildcard requirements/constraints-$(PYTAG).txt)
# Errors only, as indexes can be chatty; `make PIP_FLAGS= …` shows everything.
PIP_FLAGS ?= -qq
comma := ,
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) \
	$(addprefix -c ,$(CONSTRAINTS))

# What an installation depends on: a change in any of these makes it anew.
SOURCES := setup.py $(CONSTRAINTS)

# Templates of the real datasets are in American English, as most rows are; micro's are not.
SPELLING := --builtin clear,rare,en-GB_to_en-US --ignore-words-list dialogue,rouge

QUICKSTART_ARGS ?=
TEST_ARGS ?=
# A test process a core, four at most (each takes up to 2 GB); `make PARALLEL= test` for one.
PARALLEL ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: help venv install quickstart test test-fast test-exhaustive transformers plan-extra lm-eval \
	all-extras lint format check wheel lock pre-commit clean

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(STAMPS)/run ## Finetunes a tiny model on this machine and scores it (QUICKSTART_ARGS=…)
	$(BIN)/flan-jax quickstart $(QUICKSTART_ARGS)

test: $(STAMPS)/test ## Runs the tests that each change must pass (TEST_ARGS='-k name' picks some)
	$(BIN)/python -m pytest $(PARALLEL) -m "not exhaustive" $(TEST_ARGS)

test-fast: $(STAMPS)/test ## Runs the tests that take less than 5 s each
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(TEST_ARGS)

test-exhaustive: $(STAMPS)/test ## Runs the other tests: more cases of the same, for half an hour
	$(BIN)/python -m pytest $(PARALLEL) -m exhaustive $(TEST_ARGS)

all-extras: $(STAMPS)/all-extras ## Installs all that lint and tests can use, at once

transformers: $(STAMPS)/transformers ## Installs what tests compare exported models with (torch)

plan-extra: $(STAMPS)/plan-extra ## Installs the TPU compiler, for flan-jax plan (0.7 GB)

lm-eval: $(STAMPS)/lm-eval ## Installs lm-evaluation-harness, for flan-jax eval harness

lint: $(STAMPS)/dev ## Checks style, formatting, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	find mixtures -name '*.yaml' -not -path '*/micro/*' | xargs $(BIN)/codespell $(SPELLING)

format: $(STAMPS)/dev ## Sorts imports, mends what ruff can mend, and formats
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test ## lint, then test

wheel: $(STAMPS)/test ## Builds the source archive and the wheel in dist/
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	@ls -l dist

pre-commit: $(STAMPS)/dev ## Installs the git hook that runs ruff and pyright from .venv
	$(BIN)/pre-commit install

install: $(STAMPS)/run ## Makes .venv and installs flan_jax in it, editable

venv: $(STAMPS)/venv ## Makes an empty .venv

# Three installations, each containing the one before, so a larger one also counts as the smaller.
$(STAMPS)/venv:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "flan_jax needs Python 3.11 or newer; '$(PYTHON)' is" \
		"$$("$(PYTHON)" --version 2>&1 | head -n 1 || true)." >&2; \
		echo "Install one and say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/run: $(STAMPS)/venv $(SOURCES)
	@$(call install,.)
	@touch $@

$(STAMPS)/test: $(STAMPS)/venv $(SOURCES)
	@$(call install,.[test])
	@touch $(STAMPS)/run $@

$(STAMPS)/dev: $(STAMPS)/venv $(SOURCES)
	@$(call install,.[dev])
	@touch $(STAMPS)/run $(STAMPS)/test $@

# Two major versions of transformers: the newest in the environment, 4 in a folder of its own that
# tests put on PYTHONPATH. On Linux pip may take the large torch for GPUs; the one for CPUs does too.
$(STAMPS)/transformers: $(STAMPS)/venv $(SOURCES) requirements/transformers-4.txt
	@$(call install,.[test-hf])
	@$(transformers_4)
	@touch $(STAMPS)/run $(STAMPS)/test $@

$(STAMPS)/plan-extra: $(STAMPS)/venv $(SOURCES)
	@$(call install,.[test$(comma)plan])
	@touch $(STAMPS)/run $(STAMPS)/test $@

$(STAMPS)/lm-eval: $(STAMPS)/venv $(SOURCES)
	@$(call install,.[test$(comma)lm-eval])
	@touch $(STAMPS)/run $(STAMPS)/test $@

# At once, as pip looks at everything each time.
$(STAMPS)/all-extras: $(STAMPS)/venv $(SOURCES) requirements/transformers-4.txt
	@$(call install,.[dev$(comma)test-hf$(comma)plan$(comma)lm-eval])
	@$(transformers_4)
	@touch $(addprefix $(STAMPS)/,run test dev transformers plan-extra lm-eval) $@

define transformers_4
rm -rf $(VENV)/transformers-4; \
$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) --no-deps \
	--target $(VENV)/transformers-4 -r requirements/transformers-4.txt
endef

# $(1): what to install. The first time takes some minutes: JAX and TensorFlow are large.
define install
echo "Installing $(1) in $(VENV)$(if $(CONSTRAINTS), with the versions in $(CONSTRAINTS)) …"; \
$(PIP_INSTALL) -e "$(1)" || { echo "pip failed; for its reasons: make PIP_FLAGS= $(MAKECMDGOALS)" >&2; exit 1; }
endef

lock: ## Renews the tested versions for this Python from a clean environment
	@tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	"$(PYTHON)" -m venv "$$tools/venv"; \
	"$$tools/venv/bin/python" -m pip install --disable-pip-version-check $(PIP_FLAGS) ".[dev,test-hf]"; \
	tag=$$("$(PYTHON)" -c 'import sys; print("py%d%d" % sys.version_info[:2])'); \
	file=requirements/constraints-$$tag.txt; mkdir -p requirements; \
	{ echo "# Versions that flan_jax and its extras 'dev' and 'test-hf' were tested with. 'make lock' renews this file."; \
	  echo "# $$("$(PYTHON)" --version), $$(uname -s) $$(uname -m)"; \
	  "$$tools/venv/bin/python" -m pip freeze --all --exclude flan-jax --exclude pip \
	  | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > "$$tools/lock"; \
	cp "$$tools/lock" "$$file"; echo "wrote $$file"

clean: ## Removes .venv, builds and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
