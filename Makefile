# One environment in .venv, made on first use; stamps keep everything idempotent.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help venv demo demo-train test test-cluster chaos check check-oldest bench bench-peers build clean distclean
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.base.stamp
TRAIN := $(VENV)/.train.stamp
DEV := $(VENV)/.dev.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# pip would do it on one CPU. Some packages bring files that are no Python of this version: not an error.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
export RAY_USAGE_STATS_ENABLED := 0

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BASE)  ## run the demo recipe on the sample that comes with the project
	@$(BIN)/malmoi run examples/recipes/demo.yaml

demo-train: $(TRAIN)  ## sample, corpus, tokens, tiny model, evaluation, export, on a CPU in minutes
	@$(BIN)/malmoi run examples/recipes/demo.yaml
	@$(BIN)/python benchmarks/make_tokenizer.py runs/demo_tokenizer runs/demo --vocab 4096
	@$(BIN)/malmoi tokenize runs/demo --tokenizer runs/demo_tokenizer --seq-len 256 --out runs/demo_tokens
	@$(BIN)/malmoi train examples/recipes/demo_train.yaml
	@$(BIN)/python examples/heldout_of_run.py runs/demo runs/demo_heldout.parquet
	@$(BIN)/malmoi evaluate runs/demo_train --heldout runs/demo_heldout.parquet --limit 10
	@test -e runs/demo_model || $(BIN)/malmoi export runs/demo_train --out runs/demo_model

test: $(DEV)  ## all tests, those that start Ray included, in two processes
	@$(BIN)/python -m pytest -q -n 2 --max-worker-restart=0

test-cluster: $(DEV)  ## what needs several nodes, sshd or Redis
	@$(BIN)/python -m pytest -q -m cluster

POINTS ?= 100
SEED ?= 0
chaos: $(DEV)  ## faults at POINTS random points (by SEED) of real runs; the output stays the same bytes
	@$(BIN)/python -m tests.chaos.run --points $(POINTS) --seed $(SEED)

SAMPLE ?= runs/bench_sample.jsonl.zst
bench: $(DEV) $(SAMPLE)  ## our kernels and the filter stage, step by step; SAMPLE=your.jsonl.zst for other text
	@$(BIN)/python benchmarks/kernels.py $(SAMPLE)
	@$(BIN)/python benchmarks/filter_profile.py $(SAMPLE)

bench-peers: $(DEV) $(SAMPLE)  ## the same beside fastText, datasketch, rensa and datatrove (an environment of their own)
	@$(BIN)/python benchmarks/kernels.py $(SAMPLE) --peers
	@$(BIN)/python benchmarks/whole_path.py $(SAMPLE) --repeat-to-mb 250 --peer

runs/bench_sample.jsonl.zst: | $(DEV)
	@mkdir -p runs
	@cat examples/sample/*.jsonl.zst > $@

check: $(DEV)  ## ruff, mypy, layers, and the tests that are quick (neither Ray nor slow)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -m "not ray and not slow and not cluster"

OLDEST ?= .venv-oldest
OLDEST_TESTS := build 'setuptools>=77' psutil pytest hypothesis regex datasketch scipy datasets 'moto[server]' s3fs tokenizers fastokens matplotlib
check-oldest: $(DEV)  ## the quick tests of data with the oldest libraries that pyproject.toml allows; needs python3.11
	@test -x $(OLDEST)/bin/python || python3.11 -m venv $(OLDEST)
	@$(BIN)/python tests/oldest.py > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install -q -c $(OLDEST)/constraints.txt -e . $(OLDEST_TESTS)
	@$(OLDEST)/bin/python -m pytest -q -m "not ray and not slow and not cluster" --ignore=tests/training -p no:cacheprovider

build: $(DEV)  ## wheel and source archive in dist/
	@$(BIN)/python -m build --no-isolation

venv: $(DEV)  ## the environment alone, with what development needs

clean:  ## remove caches, builds and the runs of the recipes that come with the project
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the environment
	@rm -rf $(VENV)

# A command named python3.12 may be there and still not run (a version manager's placeholder): try each. For a Mac's
# Intel code, which Apple silicon runs as well, there are no wheels of numba, Ray and torch any more.
$(BIN)/python:
	@for python in python3.13 python3.12 python3.11 python3; do \
	  if $$python -c 'import platform, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) or (sys.platform, platform.machine()) == ("darwin", "x86_64"))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "malmoi needs Python 3.11, 3.12 or 3.13 (no later one yet: fasttext-predict has no wheel for it); none found as python3.13, python3.12, python3.11 or python3. On a Mac it has to be one for Apple silicon: brew install python@3.13" >&2; exit 1; fi; \
	echo "making $(VENV) with $$($$found --version)"; \
	if ! $$found -m venv $(VENV); then \
	  rm -rf $(VENV); \
	  echo "$$found cannot make a virtual environment. On Debian and Ubuntu: sudo apt install $$(basename $$found)-venv" >&2; exit 1; \
	fi

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing malmoi into $(VENV) (first time: a few minutes)"
	@$(PIP) -c constraints.txt -e .
	@$(COMPILE)
	@touch $@

$(TRAIN): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing malmoi with what training needs into $(VENV)"
	@$(PIP) -c constraints.txt -e '.[train]'
	@$(COMPILE)
	@touch $(BASE) $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing malmoi with its development tools into $(VENV)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@$(COMPILE)
	@touch $(BASE) $(TRAIN) $@
