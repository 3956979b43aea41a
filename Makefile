# Each target sets up what it needs: python3.11 or newer with venv, make and a package index are enough.
PYTHON ?= python3
FUZZ_SECONDS ?= 3600
TEST_PROCESSES ?= 4
# Of one core, for all tests, without a GPU and with nothing in Triton's cache:
TEST_MINUTES := 17
GPU ?= $(shell command -v nvidia-smi)
BIN := .venv/bin
READY := .venv/.ready
comma := ,

.PHONY: lab test test-time fuzz sweep bench memcheck runs figures lint format clean

lab: $(READY)
	$(BIN)/skiplab lab

test: test-time $(READY)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses $(TEST_PROCESSES) --dist loadfile

test-time:
	@$(PYTHON) -c 'import os; cores = min(os.cpu_count() or 1, $(TEST_PROCESSES)); \
		count = lambda number, what: f"{number} {what}" + "s" * (number > 1); \
		print("The tests take about", count(-(-$(TEST_MINUTES) // cores), "minute"), "on", count(cores, "core") + "$(if $(GPU),; with this GPU more$(comma) until its kernels are compiled)")'

fuzz: $(READY)
	SKIPLAB_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/fuzz --numprocesses logical --maxprocesses $(TEST_PROCESSES)

sweep: $(READY)
	$(BIN)/skiplab sweep

bench: $(READY)
	$(BIN)/skiplab bench tilemap
	$(BIN)/skiplab bench prefill_cpu
	$(BIN)/skiplab bench linear_cpu
	$(BIN)/skiplab bench model_cpu
	$(BIN)/skiplab bench host
	$(BIN)/skiplab bench store

memcheck: $(READY)
	@command -v compute-sanitizer >/dev/null || \
		{ echo "compute-sanitizer is needed: it comes with the CUDA toolkit, in its bin folder"; exit 1; }
	compute-sanitizer --tool memcheck --error-exitcode 1 $(BIN)/python tests/kernels/memcheck.py

runs: $(READY)
	$(BIN)/skiplab runs

figures: $(READY)
	$(BIN)/skiplab figures

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv, once: pip downloads PyTorch and what else is needed, which can be some gigabytes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
