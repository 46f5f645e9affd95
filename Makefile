# make help says what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NEMO ?= .venv-nemo
ARGS ?=
# Test files that run at a time: most of them wait for speech to be spoken.
JOBS ?= 2
CHATTERBOX ?= .venv-chatterbox
DOCS ?= .venv-docs
SMART_TURN := pipecat-ai==1.14.0

.DEFAULT_GOAL := help
.PHONY: help run install test test-llama lint speech lock bench-bargein live-check clean bench-load bench-peers leak-check chaos fuzz audit docs
.PHONY: install-nemo test-nemo install-chatterbox test-chatterbox test-clients

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo 'Variables: PYTHON=python3.12 (another Python), VENV=folder, ARGS=... (for pytest or the benchmark)'

run: $(VENV)/.installed  ## install what is missing and start everything; Ctrl-C ends it
	@$(BIN)/bargein run

install: $(VENV)/.installed  ## make .venv and install into it

test: $(VENV)/.installed-dev speech lint  ## install what tests need, then lint, types and all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slow and not nemo and not chatterbox and not clients' $(ARGS)

install-nemo: $(NEMO)/.installed  ## make .venv-nemo for STT_ENGINE=nemo: PyTorch and NeMo, 2.3 GB

test-nemo: $(NEMO)/.installed  ## the tests of STT_ENGINE=nemo; they want Debian's espeak-ng
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(NEMO)/bin/python -m pytest -m 'nemo and not slow' $(ARGS) tests/workers/stt/test_nemo_*.py tests/end_to_end/test_nemo.py

test-llama: $(VENV)/.installed-dev  ## hold the stand-in to a real llama-server, built from source (9 min, once; needs cmake, g++)
	$(BIN)/python -m pytest -m slow tests/workers/llm $(ARGS)

install-chatterbox: $(CHATTERBOX)/.installed-chatterbox  ## an environment for TTS_ENGINE=chatterbox: 2 GB, docs/tts.md

test-chatterbox: $(CHATTERBOX)/.installed-chatterbox  ## Chatterbox's tests: the real package with random weights
	@$(CHATTERBOX)/bin/python -W ignore -c 'import chatterbox, pocket_tts'
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(CHATTERBOX)/bin/python -m pytest -m chatterbox tests/workers/tts $(ARGS)

test-clients: $(VENV)/.installed-dev build/clients/.installed  ## LiveKit, Pipecat and the Agents SDK, as they are, against it
	$(BIN)/python -m pytest -m clients $(ARGS)

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

speech: $(VENV)/.installed-dev  ## the spoken questions of the tests, by flite
	$(BIN)/python -m tests.speech

live-check: $(VENV)/.installed-dev speech  ## a call with four interruptions, seen from every side, with the engines set
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m benchmarks.live_check $(ARGS)

bench-bargein: $(VENV)/.installed  ## from the caller's onset to silence, in milliseconds, stage by stage
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m benchmarks.bargein $(ARGS)

bench-load: $(VENV)/.installed-dev speech  ## how many calls this machine holds, and what a call costs each process
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m benchmarks.load $(ARGS)

bench-peers: $(VENV)/.installed-dev speech  ## the same calls to it, to Pipecat and to LiveKit Agents: docs/benchmarks.md
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m benchmarks.peers $(ARGS)

leak-check: $(VENV)/.installed-dev speech  ## 10 000 short sessions: memory, files, threads and keys that are left
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m benchmarks.leaks $(ARGS)

chaos: $(VENV)/.installed-dev speech  ## kill, stop and cut off what serves calls, and count their words: docs/survive.md
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(VENV)/.installed-dev  ## every parser with new examples of what strangers send; ARGS="--seconds 3600"
	$(BIN)/python -m tests.fuzz $(ARGS)

lock: $(BIN)/pip  ## constraints.txt anew, with the newest versions that fit pyproject.toml
	@$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o constraints.txt
	@if grep -nE '://|^-|@ ' constraints.txt; then echo 'constraints.txt names an address' >&2; exit 1; fi

audit:  ## known vulnerabilities of what is pinned, by pip-audit; without its service, by a copy of GitHub's advisories
	@$(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@build/audit/bin/python tests/audit.py

docs: $(DOCS)/.installed  ## the site in build/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

clean:  ## remove what was installed and built; the data in .bargein stays
	rm -rf $(VENV) $(NEMO) $(CHATTERBOX) $(DOCS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/speech/*.wav
	find bargein bus gateway workers tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Each client in an environment of its own, with the versions that were seen to work.
build/clients/.installed: tests/clients/requirements-livekit.txt tests/clients/requirements-pipecat.txt tests/clients/package.json
	for client in livekit pipecat; do \
	    $(PYTHON) -m venv build/clients/$$client && build/clients/$$client/bin/pip install --quiet \
	    --disable-pip-version-check -r tests/clients/requirements-$$client.txt || exit 1; done
	mkdir -p build/clients/agents && cp tests/clients/package.json build/clients/agents/
	cd build/clients/agents && npm install --silent --no-audit --no-fund
	@touch $@

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
	@# Only for the smart-turn model that lies in it: nothing of it is imported.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(SMART_TURN)
	@touch $(VENV)/.installed $@

$(DOCS)/.installed: constraints-docs.txt
	@$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check -c constraints-docs.txt mkdocs-material
	@touch $@

# torch first: what PyPI gives a machine with a GPU is a CUDA build, and NeMo must not exchange it.
$(NEMO)/.installed: pyproject.toml constraints-nemo.txt
	@$(PYTHON) -m venv $(NEMO)
	$(NEMO)/bin/pip install --quiet --disable-pip-version-check -c constraints-nemo.txt torch
	$(NEMO)/bin/pip install --quiet --disable-pip-version-check -c constraints-nemo.txt -e '.[nemo]' \
	    httpx pytest pytest-asyncio
	@touch $@

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
