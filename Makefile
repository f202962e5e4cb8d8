# Usage:
#   make test      create .venv if needed and run the fast tests
#   make test-all  the slow ones too
#   make lint      ruff
#   make clean     remove what the demo wrote (never .venv)
# A machine without a GPU saves gigabytes with
#   make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: install test test-all lint clean
.DELETE_ON_ERROR:

install: $(INSTALLED)

# Constraints, not requirements: they pin whatever the extras pull in, on every Python version.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "pconv_seg needs Python >= 3.10, but $(PYTHON) is %d.%d; use make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --constraint constraints.txt $(PIP_ARGS) --editable ".[onedl,dev]"
	touch $@

test: $(INSTALLED)
	$(PY) -m pytest -m "not slow"

test-all: $(INSTALLED)
	$(PY) -m pytest

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf data/demo work_dirs/demo
