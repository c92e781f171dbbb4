# Two commands matter: `make demo` runs an experiment, `make test` runs every test.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install demo test quick lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dcexp needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/python -m dcexp filter=none
	$(BIN)/python -m dcexp filter=clip_score
	$(BIN)/python -m dcexp leaderboard

test: install lint
	$(BIN)/python -m pytest

quick: install lint
	$(BIN)/python -m pytest -m "not slow and not slurm"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) outputs wandb .mypy_cache .ruff_cache .pytest_cache .hypothesis
