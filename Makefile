# `make demo` and `make test` from a fresh clone: a virtual environment, the tested versions, lint, and the whole test suite.
# Another interpreter: make test PYTHON=python3.12. Another package index, such as one with CPU builds of PyTorch:
# make test PIP_ARGS="--extra-index-url URL".

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs
PYTEST_ARGS ?=

.PHONY: install demo test lint format docs clean

install: $(STAMP)

# Installed again only when what is asked for changes.
$(STAMP): setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-input -c constraints.txt $(PIP_ARGS) -e '.[test]'
	touch $@

# The whole job once: instances on the shipped clip, and their AP; things and stuff on a drawn one, and their VPQ.
demo: $(STAMP)
	$(BIN)/l2g demo --output outputs/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p l2g

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site in outputs/site; needs no network once it is installed. Open outputs/site/index.html, or with a search:
# .venv/bin/python -m http.server -d outputs/site. (--quiet would count no warning, and so be strict about none.)
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --no-input -c constraints.txt $(PIP_ARGS) -e '.[docs]'
	touch $@

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache outputs
