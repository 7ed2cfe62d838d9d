# Every intent is one command; CI calls only these. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
PY ?= $(VENV)/bin/python
PIP_ARGS ?=
RECORD ?=

MODEL ?= examples/tiny
QUANT ?= none
KV ?= auto
TARGET ?= auto
SM ?=
ENGINE ?= engines/$(notdir $(patsubst %/,%,$(MODEL)))-$(QUANT)$(if $(filter fp8,$(KV)),-kvfp8)
BUILD_ARGS ?=
SERVE_ARGS ?=

TRITON_ARGS ?=

export PYTHONPATH := src
export INGOT_TRITON_HOME ?= $(abspath .cache/triton)
export TOKENIZERS_PARALLELISM := false

##@ Start here
.PHONY: help demo test
help: ## list every target
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  Variables: MODEL QUANT KV TARGET SM ENGINE BUILD_ARGS SERVE_ARGS TRITON_ARGS PYTHON VENV PIP_ARGS"

demo: $(VENV)/.demo ## set up, build the bundled model in fp8, serve it, ask it, check the answers
	$(VENV)/bin/ingot build examples/tiny -o engines/tiny-demo --quant fp8 --kv fp8
	$(VENV)/bin/python examples/demo.py engines/tiny-demo

test: $(VENV)/.dev lint types unit ## everything CI checks: ruff, mypy --strict, pytest

##@ Build and serve
.PHONY: engine verify serve inspect doctor repo triton triton-home
engine: $(VENV)/$(if $(filter tensorrt-rtx,$(TARGET)),.dev,.demo) ## build an engine: make engine MODEL=... QUANT=... KV=... TARGET=... SM=...
	$(VENV)/bin/ingot build $(MODEL) -o $(ENGINE) --quant $(QUANT) --kv $(KV) --target $(TARGET) $(if $(SM),--sm $(SM)) $(BUILD_ARGS)

verify: $(VENV)/.demo ## measure an engine against its original again: make verify ENGINE=...
	$(VENV)/bin/ingot verify $(ENGINE)

inspect: $(VENV)/.demo ## show an engine's manifest as tables: make inspect ENGINE=...
	$(VENV)/bin/ingot inspect $(ENGINE)

serve: $(VENV)/.demo ## an OpenAI endpoint over an engine: make serve ENGINE=... SERVE_ARGS="--port 8000"
	$(VENV)/bin/ingot serve $(ENGINE) $(SERVE_ARGS)

repo: $(VENV)/.triton ## a Triton model repository for an engine, in model_repository/: make repo ENGINE=...
	$(VENV)/bin/ingot render $(ENGINE) -o model_repository

triton: triton-home ## the same engine from a real Triton server on loopback: make triton ENGINE=... TRITON_ARGS=...
	$(VENV)/bin/ingot triton $(ENGINE) $(TRITON_ARGS)

triton-home: $(VENV)/.triton ## fetch that server: 55 MB, once
	$(VENV)/bin/ingot triton --install

doctor: $(VENV)/.demo ## what this machine has, what it lacks and what brings it
	$(VENV)/bin/ingot doctor

##@ Develop
.PHONY: dev lint format types unit bench figures gpu-test gpu-try tensorrt-check docs wheel clean
dev: $(VENV)/.dev ## the virtual environment with every tool, at pinned versions

lint: $(VENV)/.dev ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.dev ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(VENV)/.dev ## mypy --strict
	$(PY) -m mypy

unit: $(VENV)/.dev triton-home ## pytest without the GPU tests
	$(PY) -m pytest -m "not gpu"

gpu-test: ## the tests that need an NVIDIA GPU: make gpu-test PY=python3 on a machine with its own torch
	$(PY) -m pytest -m gpu

gpu-try: ## check and time every way a kernel can run, on one Hopper GPU, 8 minutes: make gpu-try PY=python3
	$(PY) benchmarks/gpu_try.py

bench: $(VENV)/.dev ## the CPU benchmarks; each prints a table and one JSON line (RECORD=--record keeps it)
	$(PY) benchmarks/scheduler.py $(RECORD)
	$(VENV)/bin/ingot build examples/tiny -o engines/tiny-bench --dtype bfloat16
	$(PY) benchmarks/offline.py engines/tiny-bench --model examples/tiny $(RECORD)

figures: $(VENV)/.dev ## write README's figures from benchmarks/results/
	$(PY) benchmarks/report.py

tensorrt-check: $(VENV)/.dev ## prove the TensorRT targets on this machine, a verdict a line
	$(PY) benchmarks/tensorrt_check.py

docs: $(VENV)/.dev ## write docs/cli.md from the commands' own help, docs/openai.md from the server's fields
	$(PY) docs/cli_page.py > docs/cli.md
	$(PY) docs/openai_page.py > docs/openai.md

wheel: $(VENV)/.dev ## sdist and wheel into dist/
	rm -rf build dist && $(PY) -m pip wheel --no-deps -w dist .

clean: ## remove what the commands made (engines stay)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ingot needs Python 3.11 or newer; '$(PYTHON)' is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing ingot and its libraries into $(VENV) (about 2 GB of disk, a few minutes the first time)"
	$(PY) -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[serve,build,demo]"
	@touch $@

$(VENV)/.triton: $(VENV)/.demo
	$(PY) -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[client]"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PY) -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[serve,build,demo,dev,tensorrt-rtx]"
	@touch $@
