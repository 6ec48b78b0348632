# Everything sets itself up: `make demo` and `make test` need only make and Python 3.11 or newer.
#   make demo                       the whole road on CPU, with a report in runs/demo/report.html
#   make test                       format, lint, types, all tests
#   make test PYTHON=python3.12     the same under another Python, in an environment of its own
#   make parity                     every model family beside Transformers' own, both ways
#   make test-gpu                   what only an NVIDIA GPU can show
#   make lint | bench | test-tpu-aot | goldens | constraints | clean

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
# The interpreter itself: behind a pyenv shim of a version that is installed but not active, it is found too.
INTERPRETER = $(shell $(PYTHON) -c 'import sys; print(sys.executable)' 2>/dev/null \
  || ls "$$(dirname "$$(command -v $(PYTHON))")"/../versions/*/bin/$(PYTHON) 2>/dev/null | tail -n 1)
STAMP := $(VENV)/.installed
# TensorFlow only helps to prepare data: keep it off accelerators and quiet.
export TF_CPP_MIN_LOG_LEVEL ?= 3

PYTHON_GPU ?= python3
.PHONY: demo test test-gpu lint format bench parity test-tpu-aot goldens constraints clean install

demo: $(STAMP)
	$(BIN)/python -m ul2tune demo

# Three workers for two cores: some tests wait. Hundreds of processes start, and each would compile our
# sources again where the environment forbids to keep bytecode.
test: export PYTHONDONTWRITEBYTECODE :=
test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Under the Python that has JAX for CUDA, as GPU machines come: it needs the core packages and pytest.
test-gpu:
	CUDA_VISIBLE_DEVICES=0 JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false \
	  $(PYTHON_GPU) -m pytest -m gpu tests/gpu

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pre-commit validate-config

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python tools/bench/feed.py
	$(BIN)/python tools/bench/step.py

# Compares with Transformers live, in both directions, in an environment of its own.
parity:
	$(MAKE) install VENV=$(VENV)-parity EXTRAS=hf
	$(VENV)-parity/bin/python -m pip --version >/dev/null 2>&1 || $(VENV)-parity/bin/python -m ensurepip -q
	$(VENV)-parity/bin/python -m pip install -q torch==2.13.0 transformers==5.23.0
	$(VENV)-parity/bin/python tools/parity/run.py

# Compiles the demo's step and T5-1.1-XL's for a TPU v5e 4x4; needs no TPU. Wants glibc >= 2.31.
test-tpu-aot:
	$(MAKE) install VENV=$(VENV)-tpu EXTRAS=tpu
	TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu $(VENV)-tpu/bin/python tools/tpu_aot.py

# Rewrites tests/cli/golden/: do it when a recipe was meant to change, and read the diff.
goldens: $(STAMP)
	$(BIN)/python -m tests.cli.golden_configs

# Newest versions for every supported Python at once; no index or host name enters the file.
constraints:
	uv pip compile --universal --python-version 3.11 --extra all --extra tpu --no-header \
	  --no-annotate -q pyproject.toml -o constraints.txt
	sed -i '1i # Written by `make constraints`: names, versions, markers of every supported Python; no hosts.' \
	  constraints.txt

EXTRAS ?= all
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(INTERPRETER)" || { echo "There is no $(PYTHON) here: make PYTHON=…" >&2; exit 1; }
	@$(INTERPRETER) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	  f"$(PYTHON) is {v}; ul2tune needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	@echo "Setting up $(VENV) (about 3 GB, once) …"
	@if command -v uv >/dev/null; then \
	  test -x $(BIN)/python || uv venv -q --python $(INTERPRETER) $(VENV) && \
	  uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	  test -x $(BIN)/python || $(INTERPRETER) -m venv $(VENV) && \
	  $(BIN)/python -m pip install -q -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

clean:
	rm -rf .venv .venv-* .cache .pytest_cache .ruff_cache .hypothesis dist
