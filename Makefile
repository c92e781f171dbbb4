# Two commands matter: `make demo` runs an experiment, `make test` runs every test.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install open-clip demo test quick lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dcexp needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

# The old webdataset of open_clip's own loader, apart from everything else: tests alone put it on their path.
open-clip: $(VENV)/open-clip/.installed

$(VENV)/open-clip/.installed: tests/parity/open_clip_requirements.txt $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $(@D) -r $<
	touch $@

demo: install
	$(BIN)/python -m dcexp filter=none
	$(BIN)/python -m dcexp filter=clip_score
	$(BIN)/python -m dcexp leaderboard

# Equal to the bit is what a CPU can be, so all but the tests of a GPU see none.
test: install open-clip lint
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "not long and not gpu"
	$(BIN)/python -m pytest -m gpu

quick: install open-clip lint
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "not slow and not slurm and not long and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) outputs wandb .mypy_cache .ruff_cache .pytest_cache .hypothesis
