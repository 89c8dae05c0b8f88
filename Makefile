# Everything a developer does, by name. Needs Python 3.11 or later, make and git.
#   make demo    the whole set-up, then the main job on real audio
#   make test    the whole set-up, then every test
#   make test-torch   the tests of PyTorch models; installs PyTorch, which is large
#   make test-long   the kill tests with 1,000 kills: about 45 minutes
#   make check   format, lint, types, generated code, import direction, docs: fast
#   make bench   the benchmark suite; writes docs/benchmarks.md
#   make bench-million   a million live sequences in one process, into the same page
#   make bench-triton    an LSTM from a Triton model repository, into the same page
#   make perf-analyzer   Triton's own load generator; ARGS='--minutes 10' kills it at random
#   make bench-openvino  OpenVINO's LSTM, into docs/benchmarks-openvino.md
#   make bench-torchserve   TorchServe's adder, into docs/benchmarks-torchserve.md
#   make bench-moonshine   speech to text by a growing cache, into docs/benchmarks-moonshine.md
#   make docs    links and code blocks of the docs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
STAMP := $(VENV)/.legato-ready
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The first Python that is new enough; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

# Handed on: make test ARGS="tests/unit -k loader", make bench ARGS=--quick
# LEGATO_TEST_EXPIRY_REQUESTS=100000 make test ARGS="-k lost_at_expiry": five times as many
ARGS ?=

.PHONY: help setup assets demo test test-torch test-long check format bench bench-million bench-triton perf-analyzer bench-openvino bench-torchserve bench-moonshine docs clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/setup_env.py
	@test -n "$(PYTHON)" || { echo "Legato needs Python 3.11 or later: none found (PYTHON=... names one)"; exit 1; }
	@$(PYTHON) tools/setup_env.py $(VENV)

assets: setup
	@$(BIN)/python tools/fetch_assets.py

demo: assets
	@$(BIN)/legato demo $(ARGS)

test: assets
	@$(BIN)/python -m pytest $(ARGS)

test-torch: assets
	@$(BIN)/python -c "import torch" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[torch]"
	@$(BIN)/python -m pytest tests/unit/runtimes/torch tests/functional/torch \
		"tests/functional/examples/test_examples.py::test_example_prints_what_it_promises[07_pytorch_module]" $(ARGS)

test-long: assets
	@LEGATO_KILLS=1000 $(BIN)/python -m pytest tests/fault/server $(ARGS)

# Each part says its verdict; all of them run, whatever the first ones find.
check: setup
	@failed=; \
	part() { name=$$1; shift; "$$@" && echo "$$name: ok" || failed="$$failed $$name"; }; \
	part format $(BIN)/ruff format --check --quiet .; \
	part lint $(BIN)/ruff check --quiet .; \
	part types $(BIN)/mypy --no-error-summary; \
	part generated $(BIN)/python tools/gen_protos.py --check; \
	part imports $(BIN)/python -m pytest -q --no-header tests/unit/test_imports.py; \
	part docs $(BIN)/python tools/check_docs.py; \
	test -z "$$failed" || { echo "make check: failed:$$failed"; exit 1; }

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: assets
	@$(BIN)/python bench/run.py $(ARGS)

bench-million: setup
	@$(BIN)/python bench/million.py $(ARGS)

# LEGATO_BENCH_TRITON names a tritonserver command to run beside Legato.
bench-triton: setup
	@$(BIN)/python bench/run.py --only '^triton$$' $(ARGS)

perf-analyzer: setup
	@$(BIN)/python bench/perf_analyzer.py $(ARGS)

bench-openvino: setup
	@$(BIN)/python bench/openvino_lstm.py $(ARGS)

# LEGATO_BENCH_TORCHSERVE names a torchserve command to run beside Legato.
bench-torchserve: setup
	@$(BIN)/python bench/torchserve_adder.py --output docs/benchmarks-torchserve.md $(ARGS)

bench-moonshine: assets
	@$(BIN)/python bench/moonshine.py --output docs/benchmarks-moonshine.md $(ARGS)

docs: setup
	@$(BIN)/python tools/check_docs.py

clean:
	rm -rf $(VENV) .cache build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
