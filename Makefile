# Each target does its own set-up, so `make book` and `make test` work on a fresh clone.
PYTHON ?= python3
PORT ?= 8000
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export PYTHONUNBUFFERED := 1
ifdef REFIMPL_DATA
export REFIMPL_DATA := $(abspath $(REFIMPL_DATA))
endif

.PHONY: help setup book test site notebooks offline pdf vectors serve bench cuda lint format mutants clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv with the locked versions and the package

$(READY): requirements.lock requirements-nodeps.lock pyproject.toml tools/environment.py
	@$(PYTHON) tools/environment.py $(VENV)

book: $(READY)  ## execute every chapter and build the book into _build/html
	@$(BIN)/python tools/book.py

notebooks: $(READY)  ## export the chapters as plain notebooks into _build/notebooks
	@$(BIN)/python tools/notebooks.py

test: $(READY) notebooks  ## run unit tests, doctests and every chapter as a notebook (unless `make book` just did)
	@echo "tests, doctests and notebooks, $(JOBS) at a time"
	@$(BIN)/python -m pytest tests refimpl tools README.md $$($(BIN)/python tools/pending.py) -m "not site" -n $(JOBS) --dist loadfile \
	  --doctest-modules --doctest-glob=README.md --ignore=tests/mutations.py \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=300 $(ARGS)

site: $(READY)  ## test the built book: links, offline resources, a real browser
	@$(BIN)/python -m pytest tests/book -m site -n $(JOBS) --dist loadfile $(ARGS)

offline: book  ## the built book as one zip file that needs no server and no network: _build/saddle-free-offline.zip
	@$(BIN)/python tools/offline.py

pdf: book  ## the built book as one PDF file, printed by Chromium: _build/saddle-free.pdf
	@$(BIN)/python tools/pdf.py

vectors: $(READY)  ## the golden vectors as one zip file for implementers in any language: _build/golden-vectors-*.zip
	@$(BIN)/python tools/vectors.py pack

serve: book  ## build, then show the book on http://localhost:$(PORT)
	@echo "http://localhost:$(PORT)/ (stop with Ctrl-C)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

bench: $(READY)  ## measure every performance goal and say which are met (several minutes)
	@$(BIN)/python -m refimpl.bench $(ARGS)

cuda: $(READY)  ## on a machine with a GPU: its tests, golden vectors and benchmarks; elsewhere a dry run
	@$(BIN)/python tools/cuda_suite.py $(ARGS)

lint: $(READY)  ## check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)  ## let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

mutants: $(READY)  ## break the package on purpose and see that the tests notice (ARGS=--record: for the book)
	@$(BIN)/python tests/mutations.py $(ARGS)

clean:  ## remove everything that was built (the environment stays)
	rm -rf _build build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
