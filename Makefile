# make demo: the main job on the data that ships with the project. make test: the tests.
# Both create the environment where there is none and reuse the one that is there.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test test-all lint clean help

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[dev]' \
	  || $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)  ## compress a network on Fashion-MNIST mini, prove it, bundle it
	$(BIN)/edgevision compress --recipe demo --out demo

test: $(READY)  ## lint, types and every test that is not slow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest --durations=20 --durations-min=5

test-all: $(READY)  ## the slow tests too: clean installs, kills, long runs
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: $(READY)  ## put the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and what the demo made
	rm -rf $(VENV) demo
