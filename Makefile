# Guidebook: `make report` shows what it does, `make test` shows that it does it.
#
#   make report PYTHON=python3.12     another interpreter (3.11 or later)
#   make test PIP_FLAGS=--quiet       whatever pip should be told
#
# The environment is made again when pyproject.toml or constraints.txt changes.

PYTHON    ?= python3
VENV      ?= .venv
PIP_FLAGS ?=
PAIR      ?= eight-schools
WORKERS   ?= 2
OUT       ?= reports/

BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt

.PHONY: help report test slow bench mutants lint format types notebooks wheel clean

help:
	@echo "make report     environment, install, guidebook report $(PAIR) --out $(OUT)"
	@echo "make test       environment, install with the test extra, the whole test suite"
	@echo "make slow       the tests that take minutes"
	@echo "make bench      the benchmarks (each program says what it measures)"
	@echo "make mutants    small faults put into what must never be wrong: the tests must notice them"
	@echo "make lint       ruff check, ruff format --check      make format: apply them"
	@echo "make types      mypy"
	@echo "make notebooks  execute notebooks/*.ipynb from top to bottom"
	@echo "make wheel      build the wheel, try it in an empty environment"
	@echo "make clean      remove the environment and everything that was generated"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Guidebook needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": say make PYTHON=python3.12")'
	@echo "Making $(VENV). The first time this downloads PyTorch and takes some minutes."
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --editable ".[test]"
	@touch $@

report: $(VENV)/.installed
	$(BIN)/guidebook report $(PAIR) --out $(OUT)

# One thread a process: the suite is made of small problems, which many threads only slow down.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses $(WORKERS) --dist loadscope

slow: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m slow

# Those that time something; verdicts against gold-standard draws: python -m benchmarks.verdicts.
bench: $(VENV)/.installed-test
	for file in $$(grep -l '^from benchmarks import timing' benchmarks/*.py); do \
		$(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; \
	done

# Minutes, and not in CI: benchmarks/MUTANTS.md holds the last run.
mutants: $(VENV)/.installed-test
	$(INSTALL) --editable ".[mutants]"
	$(BIN)/python -m benchmarks.mutants --workers $(WORKERS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-test
	$(BIN)/mypy

notebooks: $(VENV)/.installed-test
	$(BIN)/python .ci/run_notebooks.py notebooks

wheel: $(VENV)/.installed-test
	$(BIN)/python .ci/wheel_check.py

clean:
	rm -rf $(VENV) dist build reports .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
