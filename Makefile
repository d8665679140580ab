# `make demo` and `make test` need Python 3.11 or newer and nothing else: uv is fetched into .uv/ where it is missing.

UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN = $(UV) run --frozen --no-sync
MINUTES ?= 60
RUNS ?= 5
LIVE ?= auto
READY = .venv/.ready

# Ray workers started through `uv run` would each start through it again; this makes them plain Python processes.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV = 0

.PHONY: all demo quick test simulate faults live lint types imports check bench smoke aims curves scale soak deliberate clean docs proto stale help

all: $(READY)  ## install all into .venv

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.uv/bin/uv:
	@sh .ci/uv

$(READY): pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@echo 'installing into .venv (about 1 GB the first time)' >&2
	@$(UV) sync --frozen --quiet
	@touch $@

demo: $(READY)  ## start everything here, ask three agents one question, stop
	@$(RUN) parley demo

quick: $(READY)  ## the quick tests, with a real nats-server, without Ray, vLLM and slow tests: at most 90 seconds
	@.ci/tests quick $(RUN) pytest

test: $(READY)  ## every test, with a real nats-server, Ray and vLLM (2.3 GB into .vllm once; LIVE=none goes without): about 17 minutes
	@.ci/tests all $(RUN) pytest --live $(LIVE)

simulate: $(READY)  ## 100,000 histories of the handlers on a virtual clock, whatever dies or runs out: about 25 minutes on two cores
	@$(RUN) python -m tests.simulation --histories 100000

faults: $(READY)  ## everything killed and frozen while deliberations run; hostile input: about 11 minutes
	@HOSTILE_PAYLOADS=10000 $(RUN) pytest tests/faults tests/integration/test_breakers.py tests/integration/test_other_rays.py tests/mirror/benchmarks/test_soak.py --faults full

live: $(READY)  ## against a real vLLM, and how busy it is kept next to a plain client: about 8 minutes
	@$(RUN) pytest tests/live -s --live required
	@$(RUN) python -m benchmarks live

lint: $(READY)  ## ruff: style and format
	@$(RUN) ruff check . && $(RUN) ruff format --check .

types: $(READY)  ## mypy, strict
	@$(RUN) mypy

imports: $(READY)  ## imports only point down
	@$(RUN) lint-imports --no-cache

stale: $(READY)  ## do the documents still match the code
	@$(RUN) python -m docs.generate --check
	@$(RUN) python -m docs.stubs --check
	@$(RUN) pytest -q -p no:cacheprovider --durations=0 --durations-min=9 tests/mirror/docs

check: lint types imports stale test  ## all of these

bench: $(READY)  ## one measurement: make bench NAME=startup; without NAME, a list of them
	@$(RUN) python -m benchmarks $(or $(NAME),--help)

aims: $(READY)  ## every target of docs/performance.md in one run, as one table; about an hour
	@$(UV) sync --frozen --quiet --group bench
	@$(RUN) python -m benchmarks aims --runs $(RUNS) --out benchmarks/results
	@$(RUN) python -m benchmarks plots benchmarks/results/curves.json docs/performance

curves: $(READY)  ## beside Celery, Taskiq and Dramatiq: benchmarks/results/curves.json and the plots; about 30 minutes
	@$(UV) sync --frozen --quiet --group bench
	@$(RUN) python -m benchmarks curves --runs $(RUNS) --out benchmarks/results/curves.json
	@$(RUN) python -m benchmarks plots benchmarks/results/curves.json docs/performance

scale: $(READY)  ## many in flight, a long queue, a start, a full model server, each with its target; about 15 minutes
	@$(RUN) python -m benchmarks scale

smoke: $(READY)  ## CPU time of a deliberation, as a ratio; half a minute
	@$(RUN) python -m benchmarks smoke

deliberate: $(READY)  ## how good a choice is, each figure with its target: planted, beside references, a tiny model; minutes
	@$(UV) sync --frozen --quiet --inexact --group choice-references
	@$(RUN) python -m benchmarks deliberate

soak: $(READY)  ## constant load for MINUTES (60), and a table of what grows
	@$(RUN) python -m benchmarks soak --minutes $(MINUTES)

docs: $(READY)  ## write the generated parts: of README and docs/, and the dashboard
	@$(RUN) python -m docs.generate
	@$(RUN) python -m parley.monitoring.dashboards

proto: $(READY)  ## write the Python code of the gRPC service from proto/
	@$(RUN) python -m docs.stubs

clean:  ## remove what is installed here
	rm -rf .venv .uv .vllm .mypy_cache .ruff_cache .pytest_cache
