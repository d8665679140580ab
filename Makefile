# `make demo` and `make test` need Python 3.11 or newer and nothing else: uv is fetched into .uv/ where it is missing.

UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN = $(UV) run --frozen --no-sync
MINUTES ?= 60
RUNS ?= 5
LIVE ?= auto
READY = .venv/.ready

# Ray workers started through `uv run` would each start through it again; this makes them plain Python processes.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV = 0

.PHONY: all demo test simulate faults live lint types imports check bench smoke aims curves scale soak clean docs stale help

all: $(READY)  ## install everything into .venv

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.uv/bin/uv:
	@sh .ci/uv

$(READY): pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@echo 'installing into .venv (about 800 MB the first time)' >&2
	@$(UV) sync --frozen --quiet
	@touch $@

demo: $(READY)  ## start everything here, ask three agents one question, stop
	@$(RUN) parley demo

test: $(READY)  ## every test, with a real nats-server, Ray and vLLM (2.3 GB into .vllm once; LIVE=none goes without): about 10 minutes
	@$(RUN) pytest --live $(LIVE)

simulate: $(READY)  ## 100,000 histories of the handlers on a virtual clock, whatever dies: about 10 minutes on two cores
	@$(RUN) python -m tests.simulation --histories 100000

faults: $(READY)  ## everything killed and frozen while deliberations run; hostile input: about 11 minutes
	@HOSTILE_PAYLOADS=10000 $(RUN) pytest tests/faults --faults full

live: $(READY)  ## against a real vLLM, and how busy it is kept next to a plain client: about 8 minutes
	@$(RUN) pytest tests/live -s --live required
	@$(RUN) python -m benchmarks.live

lint: $(READY)  ## ruff: style and format
	@$(RUN) ruff check . && $(RUN) ruff format --check .

types: $(READY)  ## mypy, strict
	@$(RUN) mypy

imports: $(READY)  ## imports only point down
	@$(RUN) lint-imports --no-cache

stale: $(READY)  ## is what was generated still what the code says
	@$(RUN) python -m docs.generate --check

check: lint types imports stale test  ## all of the above

bench: $(READY)  ## throughput and latency, next to a plain asyncio loop
	@$(RUN) python -m benchmarks

aims: $(READY)  ## everything docs/performance.md aims at, in one run with one table: beside Celery and others, at scale, on a real vLLM; about an hour
	@$(UV) sync --frozen --quiet --group bench
	@$(RUN) python -m benchmarks.aims --runs $(RUNS) --out benchmarks/results
	@$(RUN) python -m benchmarks.plots benchmarks/results/curves.json docs/performance

curves: $(READY)  ## a part of it: beside Celery, Taskiq and Dramatiq, as benchmarks/results/curves.json and the plots; about 30 minutes
	@$(UV) sync --frozen --quiet --group bench
	@$(RUN) python -m benchmarks.curves --runs $(RUNS) --out benchmarks/results/curves.json
	@$(RUN) python -m benchmarks.plots benchmarks/results/curves.json docs/performance

scale: $(READY)  ## another: many in flight, a long queue, a start, a full model server, each with its target; about 15 minutes
	@$(RUN) python -m benchmarks.scale

smoke: $(READY)  ## does a deliberation cost more CPU than it did: a ratio, in half a minute
	@$(RUN) python -m benchmarks.smoke

soak: $(READY)  ## constant load for MINUTES (60): what must not grow, as a table
	@$(RUN) python -m benchmarks.soak --minutes $(MINUTES)

docs: $(READY)  ## write what is generated: parts of README and docs/, the dashboard
	@$(RUN) python -m docs.generate
	@$(RUN) python -m parley.monitoring.dashboards

clean:  ## remove what was installed here
	rm -rf .venv .uv .vllm .mypy_cache .ruff_cache .pytest_cache
