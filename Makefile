# Two commands to know:
#   make demo   set up all it needs, then prune, build, push, run and profile a super-resolution model on an emulated phone
#   make test   set up, then lint and the whole test suite

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo test setup system native lint nightly clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -3

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tooling/demo.sh

test: lint native
	$(BIN)/python -m pytest -m "not slow" --durations=15

setup: system $(READY)

# Debian packages that are missing: seconds when none is.
system:
	@bash tooling/install_system_packages.sh "$(PYTHON)"

# torch first and alone, so that pip takes the CPU build; then all the rest in one command, so that pip sees it whole.
$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

# The C++ that the tests run, cached by content: a minute or two for each of four builds, seconds when nothing changed.
native: setup
	@echo "building the native parts"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/native/prebuild.py

CXX_SOURCES = $(shell git ls-files '*.cc' '*.cpp' '*.h' '*.hpp')

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@echo "clang-format --dry-run -Werror: $(words $(CXX_SOURCES)) C++ files"
	@$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES))

# What takes minutes: the tests marked slow.
nightly: setup
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf .venv demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
