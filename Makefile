# Everything runs in .venv, which the first target that needs it sets up.
.DELETE_ON_ERROR:
.PHONY: demo test test-all lint bench lock clean

BIN := .venv/bin
TOOLS := $(BIN)/python -m
# Two workers, each with whole files, whose tests share what is slow to make.
PARALLEL := -n 2 --dist loadfile

demo: .venv/ready
	$(BIN)/python examples/demo.py demo-zoo

test: .venv/ready
	$(TOOLS) pytest -m "not slow" $(PARALLEL)

test-all: .venv/ready
	$(TOOLS) pytest $(PARALLEL)

lint: .venv/ready
	$(TOOLS) ruff check .
	$(TOOLS) ruff format --check .
	$(TOOLS) mypy

bench: .venv/ready
	$(BIN)/python benchmarks/run.py

# The environment is made anew when what it is made from changes.
.venv/ready: requirements.lock setup.cfg
	python=$$(sh .ci/find-python) && "$$python" -m venv --clear .venv
	$(TOOLS) pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(TOOLS) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Pins the newest versions that setup.cfg allows, for every supported Python at once.
lock: .venv/ready
	$(TOOLS) uv pip compile --universal --python-version 3.11 --no-header --quiet --upgrade --generate-hashes \
		--extra build --extra android --extra test --extra dev --constraint constraints.txt --output-file requirements.lock setup.cfg

clean:
	rm -rf .venv demo-zoo
