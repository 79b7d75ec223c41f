# One word per chore. Everything is installed into .venv; the system's Python is never touched.
#
#   PYTHON      the Python that makes .venv (3.10 to 3.13)
#   EXTRAS      optional parts to install: dev holds all of them and the tools of this Makefile
#   TORCH_ARGS  passed to pip when it installs torch, e.g. --index-url with PyTorch's CPU packages
#   ARGS        passed to pytest

PYTHON ?= python3
EXTRAS ?= dev
TORCH_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
PEER_VERSION := 0.4.4
NNUNET := .peers/nnunet/.installed
PEER := .peers/dynamic-network-architectures-$(PEER_VERSION)/.installed

# Each pytest worker keeps to one thread, so that two workers fill two cores and no more.
test test-slow: export OMP_NUM_THREADS ?= 1
docs: export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow test-gpu lint format docs bench bench-networks peers peer-nnunet clean

help:  ## list the chores
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "medunet needs Python 3.10 or later, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) $(TORCH_ARGS) torch
	$(PIP) hatchling
	$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

$(PEER): | $(STAMP)
	rm -rf .peers/dynamic-network-architectures-*
	$(PIP) --no-deps --target $(@D) dynamic-network-architectures==$(PEER_VERSION)
	@touch $@

peers: $(PEER)  ## nnU-Net's networks, which the tests compare with ours; kept out of .venv

$(NNUNET): Makefile
	rm -rf .peers/nnunet
	$(PYTHON) -m venv .peers/nnunet
	.peers/nnunet/bin/pip install --quiet torch==2.13.0 numpy scipy nibabel SimpleITK scikit-image scikit-learn pandas \
		matplotlib seaborn tifffile imagecodecs requests tqdm graphviz yacs einops blosc2 "batchgenerators>=0.25.1" \
		threadpoolctl pyyaml huggingface_hub safetensors future unittest2
	.peers/nnunet/bin/pip install --quiet --no-deps nnunetv2==2.8.1 dynamic-network-architectures==$(PEER_VERSION) \
		acvl-utils batchgeneratorsv2 fft-conv-pytorch connected-components-3d timm
	@touch $@

peer-nnunet: $(NNUNET)  ## nnU-Net 2.8.1 in an environment of its own, for make bench

setup: $(STAMP)  ## install medunet and its tools into .venv

demo: $(STAMP)  ## synthetic CT study: train, predict, evaluate, report
	@rm -rf demo-out
	$(BIN)/medunet demo --out demo-out

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check medunet tests docs
	$(BIN)/ruff format --check medunet tests docs
	$(BIN)/mypy

test: lint peers  ## lint, then every test that needs neither a GPU nor patience
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/pytest -m 'slow and not gpu' $(ARGS)

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

bench: $(STAMP)  ## measure; prints figures
	$(BIN)/pytest tests/benchmarks -m benchmark --capture=no $(ARGS)

bench-networks: $(STAMP)  ## train every network 200 steps on the hippocampus (HIPPOCAMPUS=its folder); writes docs/networks.md
	$(BIN)/python tests/benchmarks/networks.py $(ARGS)

format: $(STAMP)  ## sort imports and lay out the code
	$(BIN)/ruff check --fix-only medunet tests docs
	$(BIN)/ruff format medunet tests docs

docs: $(STAMP)  ## build the documentation into site/
	$(BIN)/python docs/config_reference.py
	$(BIN)/mkdocs build --strict --config-file .mkdocs.yml

clean:  ## remove .venv and everything that was built or cached
	rm -rf $(VENV) .peers site build dist demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find medunet tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
