# What developers do with orchd. `make help` lists it.
#
#   PYTHON=...   the Python to build .venv with, 3.11 or newer
#   TESTS=...    what `make test` runs: paths, and options of pytest
#   JOBS=...     how many tests run at once
#   CHAOS=small  how large the scenarios of `make chaos` are; tests/chaos/sizes.py
#   FIRST=... SEEDS=... TRACE=1   the seeds of `make simulate`; one is told step by step
#   TASKS=... DATABASE=sqlite     what `make soak` puts through one daemon, and on what
#   MUTATIONS=...   which mutations `make mutate` applies, by name: a,b; all by default
#   COMPARE=... GROWTH=...   options of bench/compare.py and of bench/growth.py

SHELL := /bin/sh
BIN := .venv/bin
TESTS ?=
# One more than cores of a small machine: many tests wait for time to pass.
JOBS ?= 3
CHAOS ?= full
SCENARIOS ?= tests/chaos
FIRST ?= 1
SEEDS ?= 100000
TRACE ?=
TASKS ?= 1000000
DATABASE ?= postgresql
MUTATIONS ?=
LOCK ?=
# The comparison and the growth take half an hour and more, so they have verbs of their own.
BENCHMARKS ?= $(filter-out bench/compare.py bench/growth.py,$(wildcard bench/*.py))
COMPARE ?=
GROWTH ?=
# The job that `make demo` runs after the demonstration itself.
EXAMPLE := examples/stdlib_check/run.py

PINS := pyproject.toml requirements/install requirements/build.txt requirements/uv.txt
RUN := .venv/.stamp-run
DEV := .venv/.stamp-dev

.DEFAULT_GOAL := help
.PHONY: help demo test chaos simulate soak mutate check fix bench bench-peers bench-growth
.PHONY: lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: $(RUN) ## run the demonstration and a real job; needs no key
	@$(BIN)/orchd demo
	@$(BIN)/python $(EXAMPLE)

test: $(DEV) ## run all tests, with SQLite and PostgreSQL
	@requirements/programs
	@$(BIN)/python -m pytest -n $(JOBS) $(TESTS)

chaos: $(DEV) ## break real daemons at full size; takes hours
	@requirements/programs
	@ORCHD_CHAOS=$(CHAOS) $(BIN)/python -m pytest $(SCENARIOS)

simulate: $(DEV) ## break simulated fleets, seed after seed; takes an hour
	@cd tests && ../$(BIN)/python -m simulation \
	  $(FIRST) $(SEEDS) $(JOBS) $(if $(TRACE),--trace)

soak: $(DEV) ## see one daemon's memory through a million tasks; draws docs/images/soak.svg
	@PYTHONPATH=tests $(BIN)/python -m soak --tasks $(TASKS) --database $(DATABASE)

mutate: $(DEV) ## disable each safety mechanism in a copy, and see it noticed twice
	@requirements/programs
	@cd tests && ../$(BIN)/python -m mutation $(JOBS) $(MUTATIONS)

check: $(DEV) ## check format, style, types and layers
	@$(BIN)/ruff format --quiet --check --diff .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@said=$$($(BIN)/lint-imports --no-cache --no-logo) \
	  || { printf '%s\n' "$$said"; exit 1; }

fix: $(DEV) ## format, and mend what can be mended
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

bench: $(DEV) ## run the benchmarks and print their figures
	@for benchmark in $(BENCHMARKS); do $(BIN)/python $$benchmark || exit 1; done

bench-peers: $(DEV) ## run orchd and its peers side by side; COMPARE='--size short'
	@$(BIN)/python bench/compare.py $(COMPARE)

bench-growth: $(DEV) ## measure orchd as everything grows; GROWTH='--size short'
	@$(BIN)/python bench/growth.py $(GROWTH)

lock: $(DEV) ## pin the requirements anew; LOCK=--upgrade takes newer ones
	@requirements/lock $(LOCK)

clean: ## remove everything that was built, .venv too
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build bench/.environments

$(RUN): $(PINS) requirements/run.txt
	@PYTHON='$(PYTHON)' requirements/install run

$(DEV): $(PINS) requirements/dev.txt
	@PYTHON='$(PYTHON)' requirements/install dev
