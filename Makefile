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
	@echo "install 1/3: a virtual environment in $(VENV) (seconds)"
	@$(PYTHON) -m venv $(VENV)
	@echo "install 2/3: PyTorch (up to 5 GB on disk; 2 to 10 minutes, depending on your network)"
	@$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision setuptools wheel
	@echo "install 3/3: refexp, SAM2's code, the default encoder and the test tools (1 to 5 minutes)"
	@SAM2_BUILD_CUDA=0 $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[default,sam2,wandb,dev]"
	@touch $@

demo: $(READY)   ## install, then run two examples on a CPU without a network: synthetic images, and a photograph of coins
	@echo "demo 1/2: the default experiment, on synthetic images (about a minute)"
	$(BIN)/python main.py
	@echo "demo 2/2: a real photograph: three coins as references, 18 coins to find (less than half a minute)"
	$(BIN)/refexp data coins coins
	$(BIN)/refexp predict references=coins/refs images=coins/photo.jpg masks=true hydra.run.dir=found/coins
	@echo
	@echo "The coins that refexp found: found/coins/overlays/photo.jpg"
	@echo "The same as a page, to open in a browser: found/coins/report.html"

test: $(READY)   ## install, then lint, type checks, the import contract and tests (minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile   # more threads would wait for each other

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
