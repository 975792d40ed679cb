PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/installed
# Tests run one process a core; more threads inside them would only fight.
TEST_PROCESSES ?= 2

.PHONY: setup studio test wild fuzz lint bench clean
.DELETE_ON_ERROR:

setup: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "GMTalker Studio needs Python 3.11; run: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV_PYTHON) || $(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $(INSTALLED)

studio: setup
	$(VENV_PYTHON) app.py

lint: setup
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

test: lint
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadgroup

# Every input of the wild, and of chance: the tests have a quick part of each.
wild: setup
	WILD=1 OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest tests/wild -n $(TEST_PROCESSES)

fuzz: setup
	rm -f build/fuzz.jsonl
	FUZZ=500 OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest tests/test_fuzz.py -n $(TEST_PROCESSES)

bench: setup
	mkdir -p build
	$(VENV_PYTHON) -m gmtalker bench --json build/bench.json

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache
