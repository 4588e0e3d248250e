# Each target makes what it needs. `make demo` works on a fresh clone with nothing but Python 3.11 and a network.
#   PYTHON=python3.12   another interpreter for the virtual environment
#   PIP_FLAGS=...       further flags for every `pip install`
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' Makefile

setup: .venv/.installed-dev ## make .venv with everything that development needs

demo: .venv/.installed-demo ## install, adapt, shrink, serve and ask, on the example tickets
	@$(BIN)/budwood demo

test: .venv/.installed-dev ## run all tests: CPU only, offline
	@$(OFFLINE) $(BIN)/python -m pytest

lint: .venv/.installed-dev ## style, types, import rule, sizes, what must not be in the tree
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict budwood examples
	@$(BIN)/lint-imports
	@$(BIN)/python tools/check_tree.py

bench: .venv/.installed-bench ## measure every claim anew: the scripts of benchmarks/ that open with one
	@for script in $$(grep -l '^"""Claim' benchmarks/*.py benchmarks/serving/*.py); do \
		echo "$$script"; $(OFFLINE) $(BIN)/python $$script || exit 1; done

docs: .venv/.installed-dev ## write docs/cli.md from the commands' own help
	@$(BIN)/python tools/make_cli_docs.py

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Budwood needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
		echo "  fix: name a newer one, such as: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@touch $@

.venv/.installed-demo: .venv/.python pyproject.toml constraints.txt
	@echo "installing Budwood and what it trains with into .venv (a few minutes the first time)"
	@$(INSTALL) -e '.[train,demo]'
	@touch $@

.venv/.installed-dev: .venv/.python pyproject.toml constraints.txt
	@echo "installing Budwood and the development tools into .venv (a few minutes the first time)"
	@$(INSTALL) -e '.[train,demo,vision,chem,openvino,prune,otel,dev]'
	@touch $@ .venv/.installed-demo

.venv/.installed-bench: .venv/.installed-dev
	@echo "installing what the server is measured against"
	@$(INSTALL) -e '.[train,demo,vision,chem,openvino,prune,otel,dev,bench]'
	@touch $@
