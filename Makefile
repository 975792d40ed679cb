PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/installed
# Tests run one process a core; more threads inside them would only fight. A file stays in one process, with what its tests share.
TEST_PROCESSES ?= 2

.PHONY: setup studio test wild fuzz lint bench audit clean
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
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Every input of the wild, and of chance: the tests have a quick part of each.
wild: setup
	WILD=1 OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest tests/wild -n $(TEST_PROCESSES)

fuzz: setup
	rm -f build/fuzz.jsonl
	FUZZ=500 OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest tests/test_fuzz.py -n $(TEST_PROCESSES)

bench: setup
	mkdir -p build
	$(VENV_PYTHON) -m gmtalker bench --json build/bench.json

# What is installed: licences, a bill of materials, and known weaknesses as far as their database can be reached.
audit: setup
	mkdir -p build/audit
	test -x build/audit/venv/bin/python || $(PYTHON) -m venv build/audit/venv
	build/audit/venv/bin/python -m pip install -q --disable-pip-version-check pip-audit==2.10.1 pip-licenses==5.5.5 cyclonedx-bom==7.5.0
	build/audit/venv/bin/pip-licenses --python=$(VENV_PYTHON) --format=markdown --with-urls --output-file=build/audit/licences.md
	build/audit/venv/bin/cyclonedx-py environment $(VENV_PYTHON) --output-format JSON --output-file build/audit/sbom.json
	build/audit/venv/bin/pip-audit --disable-pip --no-deps -r requirements.txt --progress-spinner off --format markdown --output build/audit/weaknesses.md \
		|| echo "pip-audit found weaknesses (build/audit/weaknesses.md), or its database can't be reached."

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache
