# Every target installs what it needs and is safe to run again.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := .setup/ready
TORCH := torch==2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help setup up down check test test-all e2e sim proto proto-check docs docs-check bench bench-engine bench-peers bench-gateway bench-failover bench-cache bench-routing bench-cascade demo-models clean

##@ Start
help: ## Show the targets
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*##/ {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv

$(STAMP): pyproject.toml tools/setup.sh
	@TORCH="$(TORCH)" TORCH_CPU_INDEX="$(TORCH_CPU_INDEX)" VENV="$(VENV)" tools/setup.sh
	@mkdir -p .setup && touch $@

up: setup ## Start the fleet with the demo model on http://127.0.0.1:8800
	@$(VENV)/bin/shoal up $(ARGS)

down: setup ## Stop a fleet that was started with --detach
	@$(VENV)/bin/shoal down $(ARGS)

##@ Check
check: setup ## Format, lint, types, import rules, generated files
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	PYTHONPATH=protos/gen $(VENV)/bin/lint-imports
	$(VENV)/bin/codespell
	@$(MAKE) --no-print-directory proto-check docs-check

PROCESSES ?= 2
test: setup ## The default tests; those that start whole fleets come last, one at a time
	@VENV=$(VENV) PROCESSES=$(PROCESSES) tools/test.sh $(ARGS)

test-all: setup ## Every test that needs no accelerator and no container engine
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not gpu and not docker" $(ARGS)

e2e: setup ## Only the tests that start real processes
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/e2e $(ARGS)

SEEDS ?= 500
sim: setup ## Whole fleets on virtual time with seeded faults; SEEDS=500, ARGS="--first 1000"
	OMP_NUM_THREADS=1 $(PY) -m tests.sim --seeds $(SEEDS) $(ARGS)

##@ Generate
proto: setup ## Generate protos/gen from the contracts
	$(PY) tools/generate_protos.py

proto-check: setup ## Fail when protos/gen is not current
	$(PY) tools/generate_protos.py --check

docs: setup ## Generate docs/configuration.md
	$(PY) tools/generate_config_docs.py

docs-check: setup ## Fail when docs/configuration.md is not current
	$(PY) tools/generate_config_docs.py --check

##@ Measure
bench: setup ## Fleet against engine; writes bench/results
	OMP_NUM_THREADS=1 $(PY) bench/fleet.py $(ARGS)

bench-engine: setup ## The shard engine: batching, prefixes, pipelines; ARGS="--quick" to try it
	OMP_NUM_THREADS=1 $(PY) -m bench.engine $(ARGS)

bench-peers: setup ## Against llama.cpp and Petals on this machine
	@$(PY) -c "import gguf, xllamacpp" 2>/dev/null || $(VENV)/bin/pip install -q "gguf==0.19.0" "xllamacpp>=2026.10"
	OMP_NUM_THREADS=1 $(PY) -m bench.peers $(ARGS)

bench-gateway: setup ## What a request and an event cost, beside other gateways
	$(PY) -m bench.gateway $(ARGS)

bench-failover: setup ## How long clients wait when a worker is lost
	OMP_NUM_THREADS=1 $(PY) -m bench.failover $(ARGS)

bench-cascade: setup ## The cascade: its threshold, what it costs and answers, what speculation gains
	OMP_NUM_THREADS=1 $(PY) -m bench.cascade $(ARGS)

bench-cache: setup ## The cache of answers: false hits, what a look costs, what a vector costs
	OMP_NUM_THREADS=1 $(PY) -m bench.cache_safety $(ARGS)
	OMP_NUM_THREADS=1 $(PY) -m bench.cache_lookup $(ARGS)
	OMP_NUM_THREADS=1 $(PY) -m bench.embedding $(ARGS)

bench-routing: setup ## Placement and routing beside other policies and a bound, on random fleets
	$(PY) -m bench.routing $(ARGS)

demo-models: setup ## Make models like the demo models from a seed (about two hours on two cores)
	cd models && ../$(PY) -m recipe.make --model all --threads 2 $(ARGS)

##@ Clean
clean: ## Remove what targets have made
	rm -rf $(VENV) .setup .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
