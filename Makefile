# Usage:
#   make demo      draw street scenes, train with zero and with partial padding, compare both,
#                  also what a seam between tiles costs the same pixels
#   make study     train, evaluate and compare four paddings on street scenes; about three hours
#   make test      create .venv if needed and run the fast tests
#   make test-all  the slow ones too
#   make docs      build the documentation into build/site; warnings are errors
#   make benchmarks  measure what padding costs, against peers: hours on 2 cores (installs MONAI)
#   make lint      ruff
#   make clean     remove what the demo wrote (never .venv)
# A machine without a GPU saves gigabytes with
#   make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo study install test test-all docs lint benchmarks clean
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

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

benchmarks: $(INSTALLED)
	$(PY) -m pip install --constraint constraints.txt $(PIP_ARGS) --editable ".[benchmarks]"
	$(PY) benchmarks/run.py

# --- The demo: each step is a file, so a second call reuses what is there -----------------------

DEMO_DATA := data/demo
DEMO_RUNS := work_dirs/demo

demo: $(DEMO_RUNS)/confusion.npz $(DEMO_RUNS)/shift.txt
	$(PY) tools/border_eval.py --from-confusion $< --out $(DEMO_RUNS)/border_eval.json \
	  --plot $(DEMO_RUNS)/border_eval.png
	@cat $(DEMO_RUNS)/shift.txt

DEMO_EVAL = $(PY) tools/border_eval.py configs/deeplabv3plus_r18_zero_demo.py $^ --tile 128

$(DEMO_RUNS)/confusion.npz: $(DEMO_RUNS)/zero/iter_300.pth $(DEMO_RUNS)/pd/iter_300.pth
	$(DEMO_EVAL) --leave-out 0 1/2 3/4 --save-confusion $@ > /dev/null

$(DEMO_RUNS)/shift.txt: $(DEMO_RUNS)/zero/iter_300.pth $(DEMO_RUNS)/pd/iter_300.pth
	$(DEMO_EVAL) --shift-test --bin-width 4 --plot $(DEMO_RUNS)/shift.png > $@

$(DEMO_DATA)/.drawn: | $(INSTALLED)
	$(PY) tools/make_demo_data.py --out $(DEMO_DATA) --size 256x512 --train 300 --val 60 --seed 0
	touch $@

$(DEMO_RUNS)/%/iter_300.pth: | $(DEMO_DATA)/.drawn
	$(PY) tools/train.py configs/deeplabv3plus_r18_$*_demo.py --work-dir $(@D) --seed 0 --resume

# One process per core: a run is too small to use several cores well.
study: $(DEMO_DATA)/.drawn
	$(PY) tools/study.py configs/studies/demo.py --work-dir work_dirs/study_demo \
	  --jobs $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)

clean:
	rm -rf $(DEMO_DATA) $(DEMO_RUNS)
