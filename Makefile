# `make demo` and `make test` need nothing but Python (3.10 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow slurm browser bench lint checkpoints clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# torch first, and SAM2 without build isolation: its isolated build would fetch a second torch.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision setuptools wheel
	SAM2_BUILD_CUDA=0 $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[default,sam2,wandb,dev]"
	@touch $@

demo: $(READY)   ## install, then run the main job on the embedded default (synthetic images, CPU, offline)
	$(BIN)/python main.py

test: $(READY)   ## install, then lint, type checks, the import contract and tests (minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)   ## the tests that take long
	$(BIN)/python -m pytest -m slow

slurm:           ## as root on Debian: what the tests with a real SLURM need
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge

browser:         ## as root on Debian: Chromium, for the tests that open a report page
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends chromium

bench: $(READY)   ## side-by-side timings into benchmarks/RESULTS.md (half an hour on two cores)
	$(BIN)/python benchmarks/run.py

lint: $(READY)   ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

checkpoints: $(READY)   ## fetch the paper's weights (SAM2 large and DINOv2 ViT-L/14, 2.1 GB) into checkpoints/
	$(BIN)/refexp weights sam2_hiera_l dinov2_vitl14

clean:           ## remove the environment and caches; runs and weights stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
