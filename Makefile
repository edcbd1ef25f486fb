# make demo     install into .venv, then run the main job on the embedded model
# make test     install into .venv, then run the test suite
# make install  install into .venv and stop
#
# TORCH=...     arguments of `pip install` for another torch, such as TORCH=torch==2.13.0 for PyPI's own
#               build, which brings several GB of CUDA libraries on Linux; the default is the CPU build
# PYTHON=...    the Python (3.11 or newer) to make .venv with

PYTHON ?= python3
TORCH_VERSION := 2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test install lint clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
# torch first: another package asking for it would pull the CUDA build. The CPU build may be known to the
# configured package index; otherwise it is on PyTorch's own.
ifdef TORCH
	$(BIN)/python -m pip install --quiet $(TORCH)
else
	$(BIN)/python -m pip install --quiet "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || \
	$(BIN)/python -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH_VERSION)"
endif
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/mspgt detect llama2-mini

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build dist *.egg-info
