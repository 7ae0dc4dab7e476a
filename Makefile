PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: train test browser lint format lock clean

train: $(VENV)/train
	$(BIN)/mhmoe train --config configs/tiny.py --workdir runs/tiny
	@command -v mhmoe > /dev/null || echo "or first: source $(BIN)/activate"

test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses 2 --durations 10 $(TESTS)

# The routing report in Chromium; needs chromium and chromedriver.
browser: $(VENV)/dev
	$(BIN)/python -m pytest tests/analysis/report/browser_report.py \
	  tests/analysis/report/browser_pictures.py

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck experiments/*/*.sh

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Locks for every supported Python. TensorFlow only reads text here: on Linux its build
# without GPUs, half the size, which no other package can be told to ask for.
define LOCK
printf "tensorflow-cpu ; $(LINUX)" | $(BIN)/uv pip compile setup.cfg - \
  --extra $(1) --output-file $(2) --override $(VENV)/override.txt \
  --universal --python-version 3.11 --no-header --no-annotate --quiet
endef
LINUX := sys_platform == 'linux' and platform_machine == 'x86_64'

lock: $(VENV)/dev
	printf "tensorflow ; sys_platform != 'linux' or platform_machine != 'x86_64'" > $(VENV)/override.txt
	$(call LOCK,dev,requirements-dev.txt)
	$(call LOCK,train,requirements.txt) --constraint requirements-dev.txt

clean:
	rm -rf $(VENV) runs

# uv takes a third of pip's time, but does not read pip.conf: where it cannot reach an
# index, pip installs the same packages.
define INSTALL
$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(1) \
  || $(BIN)/pip install --quiet --no-deps $(1)
endef

$(VENV)/train: requirements.txt setup.cfg
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || (echo "mhmoe_jax needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 1)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "uv>=0.13"
	$(call INSTALL,--requirement requirements.txt --editable .)
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/train
	$(call INSTALL,--requirement requirements-dev.txt)
	touch $@
