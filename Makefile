# `make demo` and `make test` set everything up themselves: they need git, make, Python 3.11 or later and its venv module.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Extra arguments for pip, such as an index with CPU builds of torch.
PIP_ARGS ?=
SOURCES := $(shell git ls-files manifests pipeline train evaluate)
ROOMS := manifests pipeline train evaluate

FUZZ_CASES ?= 2000
FUZZ_SEED ?= 1

.PHONY: demo test check lint docs bench fuzz paper-mini confounding-sweep cgn-mnist help clean

demo: $(VENV)/.genint  ## Build and verify the mini dataset, train with and without it, and show what changes
	$(BIN)/genint-pipeline directions --out datasets/mini-directions
	$(BIN)/genint-pipeline build-shards --out datasets/mini
	$(BIN)/genint-pipeline verify datasets/mini --rebuild 1
	$(BIN)/genint-train --shards datasets/mini --preset mini-erm --out runs/mini-erm
	$(BIN)/genint-train --shards datasets/mini --preset mini-genint-cgn --out runs/mini-genint-cgn
	$(BIN)/genint-evaluate grad-cam --checkpoint natural-only=runs/mini-erm --checkpoint genint-cgn=runs/mini-genint-cgn \
	    --shards datasets/mini:test-shifted --show 3 --out reports/mini
	$(BIN)/genint-evaluate run --checkpoint natural-only=runs/mini-erm --checkpoint genint-cgn=runs/mini-genint-cgn \
	    --shards datasets/mini --corruptions 0 --out reports/mini
	@echo
	@echo "look at         reports/mini/grad-cam-0.png: where each classifier looks, and what it says"
	@echo "and at          datasets/mini/preview/counterfactual.jpg, datasets/mini/preview/interventional.jpg"
	@echo "the report is   reports/mini/index.html"
	@echo "the dataset is  datasets/mini/manifest.json"

# A file's tests share fixtures and clusters, so that they stay in one process.
test: $(VENV)/.genint $(VENV)/.dev  ## Run the tests against the installed package, a process per core and four at most
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: lint test  ## Everything that must pass before a push

lint: $(VENV)/.genint $(VENV)/.dev  ## ruff, the import contracts, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports setup.cfg
	mkdir -p build/typecheck && ln -sfn ../.. build/typecheck/genint
	MYPYPATH=build/typecheck $(BIN)/mypy $(ROOMS:%=-p genint.%)

docs: $(VENV)/.genint $(VENV)/.docs  ## Build the documentation site into build/site, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python .ci/check_site.py build/site

bench: $(VENV)/.genint $(VENV)/.dev  ## Measured comparisons; prints ratios, asserts nothing
	for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

# Hours on two cores; `tests/test_hostile_files.py` is the short part. Disks and kills count their cases themselves.
fuzz: $(VENV)/.genint $(VENV)/.dev  ## Hostile files, arguments, kills and disks: FUZZ_CASES of each kind from FUZZ_SEED
	$(BIN)/python tests/fuzz/reproduce.py
	for kind in shards records reports recipes images weights cli; do \
	    $(BIN)/python tests/fuzz/fuzz_$$kind.py --cases $(FUZZ_CASES) --seed $(FUZZ_SEED) -v || exit 1; done
	for kind in kills disk; do $(BIN)/python tests/fuzz/fuzz_$$kind.py --seed $(FUZZ_SEED) -v || exit 1; done
	$(BIN)/python tests/fuzz/leaks.py

paper-mini: $(VENV)/.genint  ## Both papers' methods on the mini world, ten seeds each; SEEDS=3 for a first look
	$(MAKE) -f results/paper-mini.mk BIN=$(BIN)

confounding-sweep: $(VENV)/.genint  ## Generator, data and trainings for five confounding strengths; about three hours
	$(MAKE) -f results/confounding-sweep.mk BIN=$(BIN)

cgn-mnist: $(VENV)/.genint  ## CGN's MNIST table from MNIST=DIR TEXTURES=DIR CHECKPOINTS=DIR; about an hour a training
	$(MAKE) -f results/cgn-mnist.mk BIN=$(BIN)

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

clean:  ## Remove the environment and what builds left
	rm -rf $(VENV) build *.egg-info

$(VENV)/.dependencies: setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt .
	@touch $@

# A regular install, as users have it; what a former build left behind must not ride along.
$(VENV)/.genint: $(VENV)/.dependencies pyproject.toml $(SOURCES)
	rm -rf build/lib build/bdist.*
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	@touch $@

$(VENV)/.docs: $(VENV)/.dependencies
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt ".[docs]"
	@touch $@

$(VENV)/.dev: $(VENV)/.dependencies
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt ".[dev]"
	@touch $@
