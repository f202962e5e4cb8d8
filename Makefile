# Usage:
#   make demo      draw street scenes, train with zero and with partial padding, compare both
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

.PHONY: demo install test test-all lint clean
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

# --- The demo: each step is a file, so a second call reuses what is there -----------------------

DEMO_DATA := data/demo
DEMO_RUNS := work_dirs/demo

demo: $(DEMO_RUNS)/confusion.npz
	$(PY) tools/border_eval.py --from-confusion $< --out $(DEMO_RUNS)/border_eval.json \
	  --plot $(DEMO_RUNS)/border_eval.png

$(DEMO_RUNS)/confusion.npz: $(DEMO_RUNS)/zero/last_checkpoint $(DEMO_RUNS)/pd/last_checkpoint
	$(PY) tools/border_eval.py configs/deeplabv3plus_r18_zero_demo.py $(foreach run,$^,$$(cat $(run))) \
	  --tile 128 --leave-out 0 1/2 3/4 --save-confusion $@ > /dev/null

$(DEMO_DATA)/.drawn: | $(INSTALLED)
	$(PY) tools/make_demo_data.py --out $(DEMO_DATA) --size 256x512 --train 300 --val 60 --seed 0
	touch $@

# mmengine writes this file with the last checkpoint: an interrupted training starts again.
$(DEMO_RUNS)/%/last_checkpoint: | $(DEMO_DATA)/.drawn
	$(PY) tools/train.py configs/deeplabv3plus_r18_$*_demo.py --work-dir $(@D) --seed 0

clean:
	rm -rf $(DEMO_DATA) $(DEMO_RUNS)
