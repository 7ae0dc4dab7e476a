PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: train test browser lint format lock clean

train: $(VENV)/ready
	$(BIN)/mhmoe train --config configs/tiny.py --workdir runs/tiny

test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses 2 $(TESTS)

# The routing report in Chromium; needs chromium and chromedriver.
browser: $(VENV)/ready
	$(BIN)/python -m pytest tests/analysis/browser_report.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck experiments/*/*.sh

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# requirements.txt pins every package for every supported Python.
lock:
	uv pip compile --universal --python-version 3.11 --extra dev setup.cfg \
	  --no-header --no-annotate --output-file requirements.txt

clean:
	rm -rf $(VENV) runs

$(VENV)/ready: requirements.txt setup.cfg
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || (echo "mhmoe_jax needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 1)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@
