# make demo   a swarm of four peers on bundled data; makes .venv first
# make test   the test suite: some fifteen to twenty minutes on two cores
# make test-fast   the tests that start no processes: a minute and a half
# make coverage   the test suite, with the branches that it reaches; fails below the threshold in pyproject.toml
# make check  format, lint, types, layers, spelling, words, documentation
# make docs   the documentation as a site that needs no network: build/site/index.html
# make build  wheel and source distribution: dist/
# make soak   long tests of the guarantees: an hour and a half

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# More workers than cores: many tests wait for a time limit of what they test.
WORKERS ?= 4
RANDOMIZED := tests/protocol/test_peer.py tests/protocol/test_peer_troubles.py tests/protocol/test_federated.py \
	tests/unit/protocol/test_wire.py tests/unit/transport/test_strangers.py tests/e2e/test_damaged_files.py
# Those without processes compute: a worker for each core, as each imports torch and collects all tests.
FAST_WORKERS ?= logical
PYTEST_OPTIONS := --dist worksteal --durations 10
# The variable silences an advertisement of the theme.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) $(PYTEST_OPTIONS)

# Bytecode of tests, and of each process that they start, is compiled once, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast coverage check docs build soak format clean

demo: $(VENV)/.installed
	$(BIN)/python run_peers.py gossip --config configs/demo.toml

test: $(VENV)/.installed
	$(PYTEST) --verbose

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses $(FAST_WORKERS) $(PYTEST_OPTIONS) -m 'not processes'

# Processes of a test that are killed leave half a file each, which is no error. The report fails below `fail_under`.
coverage: $(VENV)/.installed
	rm -rf .coverage && mkdir .coverage
	$(BIN)/python -m coverage run -m pytest --numprocesses $(WORKERS) $(PYTEST_OPTIONS) --verbose
	$(BIN)/coverage combine --quiet 2>.coverage/half-written.txt
	$(BIN)/coverage report

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python -m tests.support.words
	$(MKDOCS)

docs: $(VENV)/.installed
	$(MKDOCS)
	@echo "documentation: build/site/index.html"

# Without isolation: setuptools is installed, and nothing has to be downloaded.
build: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation

soak: $(VENV)/.installed
	$(BIN)/python -m soak.kills --kills 200
	$(BIN)/python -m soak.cuts --cuts 1000 --command-line 50
	$(BIN)/python -m soak.mutations --messages 1000000 --rounds 1200
	$(BIN)/python -m soak.network
	$(BIN)/python -m soak.meeting
	P2PFL_EXAMPLES=40 P2PFL_DAMAGES=100 $(PYTEST) -m 'not processes' $(RANDOMIZED)

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stamp, not the folder, says that the installation was finished.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "p2pfl needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

clean:
	rm -rf $(VENV) .coverage build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
