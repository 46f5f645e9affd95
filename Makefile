# make help says what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
CHATTERBOX ?= .venv-chatterbox

.DEFAULT_GOAL := help
.PHONY: help run install test lint speech lock bench-bargein clean install-chatterbox test-chatterbox

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo 'Variables: PYTHON=python3.12 (another Python), VENV=folder, ARGS=... (for pytest or the benchmark)'

run: $(VENV)/.installed  ## install what is missing and start everything; Ctrl-C ends it
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/honcho start; code=$$?; \
	[ $$code -eq 130 ] || [ $$code -eq 143 ] || exit $$code

install: $(VENV)/.installed  ## make .venv and install into it

test: $(VENV)/.installed-dev speech lint  ## install what tests need, then lint, types and all tests
	$(BIN)/python -m pytest -m 'not slow and not chatterbox' $(ARGS)

install-chatterbox: $(CHATTERBOX)/.installed-chatterbox  ## an environment for TTS_ENGINE=chatterbox: 2 GB, docs/tts.md

test-chatterbox: $(CHATTERBOX)/.installed-chatterbox  ## Chatterbox's tests: the real package with random weights
	@$(CHATTERBOX)/bin/python -W ignore -c 'import chatterbox, pocket_tts'
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(CHATTERBOX)/bin/python -m pytest -m chatterbox tests/workers/tts $(ARGS)

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

speech: $(VENV)/.installed-dev  ## the spoken questions of the tests, by flite
	$(BIN)/python -m tests.speech

bench-bargein: $(VENV)/.installed  ## from the caller's onset to silence, in milliseconds, stage by stage
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m benchmarks.bargein $(ARGS)

lock: $(BIN)/pip  ## constraints.txt anew, with the newest versions that fit pyproject.toml
	@$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o constraints.txt
	@if grep -nE '://|^-|@ ' constraints.txt; then echo 'constraints.txt names an address' >&2; exit 1; fi

clean:  ## remove what was installed and built; the data in .bargein stays
	rm -rf $(VENV) $(CHATTERBOX) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/speech/*.wav
	find bus gateway workers tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing a new environment gets: without it the environment is not whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "bargein needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1)." >&2; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "'$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

# CPU builds of torch have no CUDA, which torchaudio's libraries are linked against: without them it does the same in
# Python. Where torch has CUDA they stay.
$(CHATTERBOX)/.installed-chatterbox: pyproject.toml constraints.txt chatterbox.txt
	@$(MAKE) --no-print-directory VENV=$(CHATTERBOX) $(CHATTERBOX)/bin/pip
	$(CHATTERBOX)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(CHATTERBOX)/bin/pip install --quiet --disable-pip-version-check -r chatterbox.txt
	$(CHATTERBOX)/bin/pip install --quiet --disable-pip-version-check --no-deps chatterbox-tts==0.1.7
	$(CHATTERBOX)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e . \
	    pytest pytest-asyncio hypothesis 'fakeredis[lua]' pocket-tts==4.0.1
	@$(CHATTERBOX)/bin/python -c 'import torch; raise SystemExit(bool(torch.version.cuda))' \
	    && rm -f $(CHATTERBOX)/lib/python3*/site-packages/torchaudio/lib/*.so || true
	@touch $@
