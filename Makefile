# `make demo` and `make test` work from a fresh clone: they need python3 (3.11 or newer) and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench docs clean

help:
	@echo "make demo      run the gateway and a simulated engine, and stream one answer (ARGS=--once ends after it)"
	@echo "make test      lint, types and tests (ARGS='-k name' goes to pytest)"
	@echo "make install   a virtual environment in $(VENV) with fastgw and what its tests need"
	@echo "make bench     measure CPU per request beside other proxies (ARGS='--seconds 2')"
	@echo "make docs      write the pages that are generated from tables"
	@echo "make clean     remove $(VENV) and all caches"

# The demo needs only fastgw itself; tests need much more. Each set has a stamp, so that it is installed once.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fastgw needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@command -v "$${CC:-cc}" >/dev/null 2>&1 \
		|| echo "note: no C compiler here; fastgw runs in pure Python: slower, otherwise the same."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "python's venv module is missing (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "installing fastgw into $(VENV) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need into $(VENV) ..."
	@$(PIP) -e '.[dev]'
	@touch $@

install: $(VENV)/.installed-dev
	@echo "done: $(BIN)/fastgw --help"

demo: $(VENV)/.installed
	@$(BIN)/fastgw demo $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	@$(BIN)/python -m benchmarks.wire $(ARGS)

docs: $(VENV)/.installed
	@$(BIN)/fastgw docs --write docs

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
