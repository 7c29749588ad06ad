# Every target does its own set-up: uv and the pinned dependencies go into private folders.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
VENV_OLDEST := .venv-oldest
# The Python of .python-version where it is installed, else the one at hand: none is downloaded.
WANTED = $$($(UV) python find --no-python-downloads "$$(cat .python-version)" 2>/dev/null || echo $(PYTHON))
RUN := $(VENV)/bin/python
UV := $(shell command -v uv || echo .tools/bin/uv)
OLDEST_JAX := 0.11.2
CHECKED := --jaxtyping-packages=jaxlab,beartype.beartype --timeout 300
WORKERS ?= 2
export JAX_PLATFORMS ?= cpu

.PHONY: help reproduce test test-all test-oldest gpu lint docs build lock clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | \
		while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

reproduce: $(VENV)/.ready ## Run every experiment at smoke size and write report/index.html.
	$(RUN) -m experiments run all --preset smoke
	$(RUN) -m experiments report -o report

# Workers share the cores: threads of their own would wait for each other.
test test-all: export OPENBLAS_NUM_THREADS = 1

test: $(VENV)/.ready ## Run the default tests, doctests and notebooks.
	$(RUN) -m pytest $(CHECKED) -n $(WORKERS) --dist worksteal --doctest-modules --nbmake --nbmake-timeout=200 tests jaxlab experiments notebooks

test-all: $(VENV)/.ready ## Run every test that needs no GPU; the summary goes to docs/test-all.txt.
	$(RUN) -m pytest $(CHECKED) -n $(WORKERS) --dist worksteal --doctest-modules --nbmake --nbmake-timeout=200 -m "not gpu" \
		tests jaxlab experiments notebooks | tee docs/test-all.log
	{ git describe --always --dirty; tail -n 1 docs/test-all.log; \
		sed -nE 's/^SKIPPED \[[0-9]+\] [^ ]+ /skipped: /p' docs/test-all.log | sort -u; } > docs/test-all.tmp
	mv docs/test-all.tmp docs/test-all.txt # only now, or the file itself would make the tree dirty

test-oldest: $(VENV_OLDEST)/.ready ## Run lowering, sharding and import tests on the oldest jax.
	$(VENV_OLDEST)/bin/python -m pytest $(CHECKED) -n $(WORKERS) -m oldest tests

gpu: ## Run the GPU tests and presets with PYTHON as it is; installs nothing.
	JAX_PLATFORMS=cuda,cpu $(PYTHON) -m pytest -p no:cacheprovider -m gpu tests
	JAX_PLATFORMS=cuda,cpu $(PYTHON) -m experiments.harness all --preset gpu --save

lint: $(VENV)/.ready ## Check style, types and the direction of imports.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(RUN) jaxlab
	$(VENV)/bin/lint-imports

docs: $(VENV)/.ready ## Build the API reference into docs/_build.
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build

build: $(VENV)/.ready ## Build the wheel and try it outside the checkout.
	rm -rf dist && $(UV) build -q --wheel --out-dir dist .
	$(RUN) .ci/try_wheel.py dist/*.whl

lock: $(UV) ## Resolve the dependencies again.
	for lock in requirements.lock requirements-oldest.lock; do \
		constraint=$$([ $$lock = requirements.lock ] || echo "jax==$(OLDEST_JAX)"); \
		$(UV) pip compile -q --universal --python-version 3.12 --extra dev pyproject.toml \
			--constraints <(echo "$$constraint") \
			--no-emit-index-url --no-header --no-annotate --upgrade -o $$lock; \
	done

clean: ## Remove what the other targets made.
	rm -rf $(VENV) $(VENV_OLDEST) .tools dist report runs docs/_build

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install -q uv

$(VENV)/.ready: requirements.lock pyproject.toml | $(UV)
	$(UV) venv -q --clear --python "$(WANTED)" $(VENV)
	VIRTUAL_ENV=$(VENV) $(UV) pip sync -q requirements.lock
	VIRTUAL_ENV=$(VENV) $(UV) pip install -q --no-deps --editable .
	touch $@

$(VENV_OLDEST)/.ready: requirements-oldest.lock pyproject.toml | $(UV)
	$(UV) venv -q --clear --python "$(WANTED)" $(VENV_OLDEST)
	VIRTUAL_ENV=$(VENV_OLDEST) $(UV) pip sync -q requirements-oldest.lock
	VIRTUAL_ENV=$(VENV_OLDEST) $(UV) pip install -q --no-deps --editable .
	touch $@
