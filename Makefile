# `make demo` and `make test` from a fresh clone: a virtual environment, the tested versions, lint, and the whole test suite.
# Another interpreter: make test PYTHON=python3.12. Another package index, such as one with CPU builds of PyTorch:
# make test PIP_ARGS="--extra-index-url URL".

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs
SERVING_VENV := .venv-serving
SERVING_STAMP := $(SERVING_VENV)/.installed
PYTEST_ARGS ?=
# How many tests run beside each other.
JOBS ?= 2

.PHONY: install demo test test-serving serving-environment lint format docs clean

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

# 5: of what PYTEST_ARGS chose, nothing is of that kind.
test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not alone" $(PYTEST_ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest -m alone $(PYTEST_ARGS) || [ $$? = 5 ]

# The real Triton server. The wheel that carries it wants NumPy 1, and so an environment of its own; the graph that is
# served is exported by the first one. The versions that its Python cannot have are not held to those that are tested.
serving-environment: $(SERVING_STAMP)

$(SERVING_STAMP): pyproject.toml constraints.txt constraints-serving.txt
	test -x $(SERVING_VENV)/bin/python || $(PYTHON) -m venv $(SERVING_VENV)
	$(SERVING_VENV)/bin/python -m pip install --no-input -c constraints-serving.txt $(PIP_ARGS) -e '.[cpu,serving]' \
	  nvidia-pytriton onnx pillow pytest
	touch $@

outputs/serving/l2g_tiny.onnx: $(STAMP)
	mkdir -p $(@D)
	$(BIN)/l2g export --ckpt l2g_tiny --output $@

test-serving: $(SERVING_STAMP) outputs/serving/l2g_tiny.onnx
	L2G_SERVING_GRAPH=$(CURDIR)/outputs/serving/l2g_tiny.onnx \
	  $(SERVING_VENV)/bin/python -m pytest tests/serving $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(SERVING_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache outputs
