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
JAVASCRIPT := tests/e2e/javascript
ROOT_DO := $(if $(filter 0,$(shell id -u)),,sudo -n)

CONFIG ?=
VLLM ?=
RUN ?=
RESULTS ?= benchmarks/results
PIECES ?=
TOOLS ?=
JOBS ?= 2

export PYTHONPATH := src$(if $(PYTHONPATH),:$(PYTHONPATH))
export INGOT_TRITON_HOME ?= $(abspath .cache/triton)
export TOKENIZERS_PARALLELISM := false

##@ Start here
.PHONY: help demo test
help: ## list every target
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  Variables: MODEL QUANT KV TARGET SM ENGINE BUILD_ARGS SERVE_ARGS TRITON_ARGS CONFIG VLLM RUN RESULTS PIECES TOOLS PYTHON VENV PIP_ARGS JOBS"

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
.PHONY: dev lint format types unit javascript chromium soak bench figures gpu-test gpu-sanitize gpu-figures tensorrt-check docs screenshot wheel clean
dev: $(VENV)/.dev ## the virtual environment with every tool, at pinned versions

lint: $(VENV)/.dev ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.dev ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(VENV)/.dev ## mypy --strict
	$(PY) -m mypy
	$(PY) -m mypy benchmarks

unit: $(VENV)/.dev triton-home javascript chromium ## pytest without the GPU tests, JOBS files at a time
	$(PY) -m pytest -m "not gpu" -n $(JOBS) --dist loadfile --no-loadscope-reorder

javascript: $(JAVASCRIPT)/node_modules/.package-lock.json ## OpenAI's JavaScript client, which a test drives: needs node 20 or newer

chromium: ## the browser that the status page is tested in: by apt, where there is none
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name > /dev/null && exit 0; done; \
	  echo "Installing Chromium with apt, for the status page's tests (300 MB of disk)"; \
	  { $(ROOT_DO) apt-get update -qq && $(ROOT_DO) env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null; } || \
	  echo "apt could not install it: install Chromium or Google Chrome yourself, or tests/e2e/test_page.py fails."

gpu-test: ## the tests that need an NVIDIA GPU: make gpu-test PY=python3 on a machine with its own torch
	$(PY) -m pytest -m gpu

soak: $(VENV)/.dev ## random clients of every dialect for 20 minutes; fails where anything leaks, hangs or breaks
	$(VENV)/bin/ingot build examples/tiny -o engines/tiny-soak --target cpu --max-model-len 256
	$(PY) benchmarks/soak.py engines/tiny-soak $(RECORD)

gpu-sanitize: ## the kernel tests' smallest shapes under compute-sanitizer: make gpu-sanitize PY=python3 TOOLS="memcheck tests/plugins/test_tune.py"
	$(PY) tests/sanitize.py $(TOOLS)

gpu-figures: ## all figures of one GPU, pieces under 10 minutes: make gpu-figures PY=python3 CONFIG=DIR VLLM=SITE RUN=ID PIECES="bf16 fp8kv"
	$(PY) benchmarks/gpu_figures.py $(PIECES) $(if $(CONFIG),--config $(CONFIG)) $(if $(VLLM),--vllm $(VLLM)) \
	  $(if $(RUN),--run $(RUN)) --results $(RESULTS)

bench: $(VENV)/.dev ## the CPU benchmarks; each prints a table and one JSON line (RECORD=--record keeps it)
	$(PY) benchmarks/scheduler.py $(RECORD)
	$(VENV)/bin/ingot build examples/tiny -o engines/tiny-bench --dtype bfloat16
	$(PY) benchmarks/against_transformers.py engines/tiny-bench --model examples/tiny $(RECORD)
	$(VENV)/bin/ingot bench chat engines/tiny-bench --conversations 6 $(if $(RECORD),--output benchmarks/results/cpu.jsonl)
	$(PY) benchmarks/structured.py engines/tiny-bench $(RECORD)
	$(PY) benchmarks/vocabulary.py $(RECORD)

figures: $(VENV)/.dev ## write README's figures and the plot from benchmarks/results/
	$(PY) benchmarks/report.py

tensorrt-check: $(VENV)/.dev ## prove the TensorRT targets on this machine, a verdict a line
	$(PY) benchmarks/tensorrt_check.py

docs: $(VENV)/.dev ## write docs/cli.md from the commands' own help, docs/openai.md from the server's fields
	$(PY) docs/cli_page.py > docs/cli.md
	$(PY) docs/openai_page.py > docs/openai.md

screenshot: $(VENV)/.dev chromium ## draw docs/status-page.png: the page over the bundled model under load
	$(VENV)/bin/ingot build examples/tiny -o engines/tiny-bench --dtype bfloat16
	$(PY) docs/page_shot.py engines/tiny-bench

wheel: $(VENV)/.dev ## sdist and wheel into dist/
	rm -rf build dist && $(PY) -m pip wheel --no-deps -w dist .

clean: ## remove what the commands made (engines stay)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis $(VENV)

$(JAVASCRIPT)/node_modules/.package-lock.json: $(JAVASCRIPT)/package.json $(JAVASCRIPT)/package-lock.json
	@command -v node npm > /dev/null && node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' || \
	  { echo "The tests drive OpenAI's JavaScript client, which needs node 20 or newer and npm. Install them (nodejs.org, or your packages)."; exit 1; }
	cd $(JAVASCRIPT) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ingot needs Python 3.11 or newer; '$(PYTHON)' is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing ingot and its libraries into $(VENV) (about 2 GB of disk, 5 with PyTorch's CUDA libraries; a few minutes the first time)"
	$(PY) -m pip install -q --no-compile $(PIP_ARGS) -c constraints.txt -e ".[serve,build,demo]"
	@touch $@

$(VENV)/.triton: $(VENV)/.demo
	$(PY) -m pip install -q --no-compile $(PIP_ARGS) -c constraints.txt -e ".[client]"
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing ingot and everything its tests use into $(VENV) (about 3 GB of disk, 6 with PyTorch's CUDA libraries; a few minutes the first time)"
	$(PY) -m pip install -q --no-compile $(PIP_ARGS) -c constraints.txt -e ".[serve,build,demo,client,dev,tensorrt-rtx]"
	@touch $(VENV)/.demo $(VENV)/.triton $@
