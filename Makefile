# Everything sets itself up in .venv on a machine with Python >= 3.11; `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PEERS := .bench/peers
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c benchmarks/peers/constraints.txt

PYTEST := GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term -q

.DEFAULT_GOAL := help
.PHONY: readme-figures precision-table bench-precision bench bench-train bench-forward bench-serving bench-rebuild damage model fuzz help demo test test-all check format study figures bench-dispatch chaos faults bench-range-test bench-auto-cycles fashion-mnist chromium clean peers

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "snapcycle needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	@echo "installing snapcycle into $(VENV) (the first time takes a minute or two)"
	@$(PIP) torch
	@$(PIP) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing the development tools into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/installed  ## train a snapshot ensemble on real data, watch it, ask it for predictions
	@$(BIN)/snapcycle demo

test: $(VENV)/installed-dev fashion-mnist chromium  ## the tests that take less than ten seconds each, with coverage; about ten minutes
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/installed-dev fashion-mnist chromium  ## all tests, with coverage, as CI runs them; about twenty minutes
	@$(PYTEST)

check: $(VENV)/installed-dev  ## formatting, lint, types, import contracts, no way from data to code
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python tools/check_no_code_execution.py

format: $(VENV)/installed-dev  ## format the code and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench-range-test: $(VENV)/installed-dev fashion-mnist  ## the range test's suggestion against a grid of rates, about 40 CPU minutes
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/range_test_grid.py

bench-auto-cycles: $(VENV)/installed-dev fashion-mnist  ## automatic cycles against the single runs, seven settings, about an hour
	@PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python benchmarks/auto_cycles.py

precision-table: $(VENV)/installed-dev  ## where bf16 trains faster than float32 on this processor, shape by shape; about four minutes
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/precision_table.py $(ARGS)

bench-precision: $(VENV)/installed-dev fashion-mnist  ## whether bf16 trains ensembles as good as float32's, five seeds, about ten minutes; ARGS="--minutes 3"
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/precision_gate.py $(ARGS)

study: $(VENV)/installed-dev fashion-mnist  ## a study through the whole system; settings as ARGS="--rows 10000 --epochs 20"
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/study.py $(ARGS)

KILLS ?= 200
PER_MINUTE ?= 25
chaos: $(VENV)/installed-dev  ## random SIGKILLs of every process under load, nothing lost, doubled or changed; KILLS=200 PER_MINUTE=25 ARGS="--seed 1"
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/chaos.py --kills $(KILLS) --per-minute $(PER_MINUTE) $(ARGS)

fuzz: $(VENV)/installed-dev  ## REQUESTS=100000 spoiled requests to a real API, by schemathesis and our own fuzzer; KEYS=1 with keys; SEED=… repeats
	@PYTHONPATH=. OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/fuzz.py --requests $(or $(REQUESTS),100000) $(if $(SEED),--seed $(SEED)) $(if $(KEYS),--keys) $(ARGS)

model: $(VENV)/installed-dev  ## the job store against its model in plain Python: EXAMPLES=2000 histories of STEPS=100 requests, claims, ends, lost databases
	@MODEL_EXAMPLES=$(or $(EXAMPLES),2000) MODEL_STEPS=$(or $(STEPS),100) GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -q -n 0 tests/worker/test_job_store_model.py

bench-rebuild: $(VENV)/installed-dev  ## how long 1,000 jobs take to come back after Redis has lost everything
	@PYTHONPATH=. $(BIN)/python benchmarks/rebuild.py $(ARGS)

damage: $(VENV)/installed-dev  ## flip, cut or delete single files of a store, 500 times or CASES=10000; settings as ARGS="--seed 7"
	@PYTHONPATH=. OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/damage.py --cases $(or $(CASES),500) $(ARGS)

faults: $(VENV)/installed-dev  ## every failpoint with every failure, and the faults of server, network, disk and clock; ARGS="--only F3"
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/faults.py $(ARGS)

bench-load: $(VENV)/installed-dev  ## 10,000 queued jobs, 1,000 clients, three tenants: how long answers take; about 6 minutes
	@PYTHONPATH=. $(BIN)/python benchmarks/load.py --json benchmarks/results/load.json $(ARGS)

bench-dispatch: $(VENV)/installed-dev  ## from POST /v1/jobs to the first training step, 20 jobs
	@$(BIN)/python benchmarks/dispatch.py $(if $(findstring --quick,$(ARGS)),--jobs 2,$(filter-out --fresh,$(ARGS)))

bench: bench-train bench-forward bench-serving bench-dispatch  ## everything below against its peers; hours, goes on where it stopped; ARGS="--quick" two minutes, ARGS="--fresh" anew

bench-train: $(VENV)/installed-dev $(PEERS)/installed fashion-mnist  ## training beside torchensemble, Lightning, fastai and bare loops; ARGS="--tiers A --minutes 6"
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/training_tiers.py $(ARGS)

bench-forward: $(VENV)/installed-dev $(PEERS)/installed fashion-mnist  ## five members' forward pass beside the loop, vmap and torchensemble
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/forward.py $(ARGS)

SERVERS := litserve bentoml mlserver
bench-serving: $(VENV)/installed-dev $(SERVERS:%=.bench/%/installed) fashion-mnist  ## predictions over HTTP beside LitServe, BentoML, MLServer, FastAPI
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/serving.py $(ARGS)

.bench/%/installed: $(VENV)/created benchmarks/peers/%.txt
	@echo "installing $* into .bench/$* (about a minute, 700 MB)"
	@$(PYTHON) -m venv --clear .bench/$*
	@.bench/$*/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/$*.txt
	@touch $@

$(PEERS)/installed: $(VENV)/created benchmarks/peers/requirements.txt benchmarks/peers/requirements-without-dependencies.txt benchmarks/peers/constraints.txt
	@echo "installing the peers into $(PEERS) (about a minute, 1.5 GB)"
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS_PIP) -r benchmarks/peers/requirements.txt
	@$(PEERS_PIP) --no-deps -r benchmarks/peers/requirements-without-dependencies.txt
	@touch $@

peers: $(VENV)/installed-dev $(PEERS)/installed  ## our formulas beside torch, timm, fastai and others, about two minutes; writes docs/comparison.md
	@SNAPCYCLE_PEER_ROWS=$(PEERS)/rows.json GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -q tests/peers --ignore tests/peers/test_table.py
	@$(BIN)/python benchmarks/peers/write_table.py $(PEERS)/rows.json

readme-figures: $(VENV)/installed-dev  ## README's figures, made of benchmarks/results
	@PYTHONPATH=. $(BIN)/python benchmarks/readme_figures.py

figures: $(VENV)/installed-dev fashion-mnist  ## the paper's four figures for a real run, with and without restarts, to docs/figures (needs chromium)
	@PYTHONPATH=. GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/paper_figures.py

# The Debian package holds the four files; without root or apt the tests that need them are skipped by name.
fashion-mnist:
	@if [ ! -d /usr/share/datasets/fashion-mnist ] && [ -z "$$SNAPCYCLE_FASHION_MNIST_DIR" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist >/dev/null; fi

chromium:
	@if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null || echo "without a browser its tests are skipped"; fi

clean:  ## remove the virtual environment and caches
	@rm -rf $(VENV) .bench build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
