# One command per need, the same for people and for CI. `make demo` and `make test` make their own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test check eval bench bench-gpu serve clean

help:
	@echo "make demo | test | check | eval | bench | bench-gpu | serve | clean"

# The last install is twice quiet: setuptools warns of every editable install; errors are still shown.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Ragstone needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[offline,ocr,eval,report,kernels,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# Files of tests go to as many processes as there are cores (four at the most: each may hold 3 GB); threads that wait must leave the core to the others.
test: $(STAMP)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

eval: $(STAMP)
	$(BIN)/python bench/full_chain.py --out report

bench: $(STAMP)
	$(BIN)/python bench/all.py

bench-gpu: $(STAMP)
	$(BIN)/python bench/all.py --gpu

serve: $(STAMP)
	$(BIN)/rag serve --index demo.index

clean:
	rm -rf $(VENV) demo.index build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
