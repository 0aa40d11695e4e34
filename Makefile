# Two commands do everything on a fresh machine with Python 3.11+, a C compiler and make:  make start   and   make test

PYTHON      ?= python3
CONF        ?= conf
PORT_OFFSET ?= 0
VENV        := .venv
BIN         := $(VENV)/bin
FASTPATH    := $(VENV)/.built
TYPES       := $(shell find engine -mindepth 2 -name '*.pxd')
FLAGS       ?=

# Root uses the configuration's own paths and drops to a user; anybody else keeps everything below var/.
AS_ROOT     := $(filter 0,$(shell id -u))
STATE       := $(if $(AS_ROOT),,--state-dir var)

.DELETE_ON_ERROR:
.PHONY: start user test check debug bench peers faults hostile fuzz chaos crash-states simulate reload-test upgrade-test clean lock

start: $(FASTPATH) user
	$(BIN)/engine start -c $(CONF) --port-offset $(PORT_OFFSET) $(STATE) $(FLAGS)

user:
ifneq ($(AS_ROOT),)
	@getent passwd engine >/dev/null || { echo "creating the system user 'engine' (the engine's children run as it)"; \
	    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin engine; }
endif

# Three workers on two cores: much of what the tests do is wait.
test: check
	$(BIN)/pytest -n 3 --dist loadfile --benchmark-disable
	ENGINE_FASTPATH=off $(BIN)/pytest -n 3 --dist loadfile --benchmark-disable $(addprefix tests/,mail smtp listener reception spool scheduler delivery accounting)

check: $(VENV)/.dev $(FASTPATH)
	$(BIN)/ruff check
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint engine
	$(BIN)/pytest tests/test_layering.py

# Line tracing, assertions and annotated HTML (engine/_fastpath.html); the next other target builds the fast one again.
debug: $(VENV)/.dev
	ENGINE_CYTHON_TRACE=1 $(BIN)/python setup.py build_ext --inplace --force
	rm -f $(FASTPATH)
	@echo "annotated source: engine/_fastpath.html"

bench: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m bench $(FLAGS)

peers: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m tests.peers $(FLAGS)

# Attacks from either side, one by one, and what another client and the memory have of them; FLAGS="--seconds 5 idle" ...
hostile: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m tests.hostile $(FLAGS)

# Coverage-guided, 60 s a target; make fuzz FLAGS="server --seconds 600".  What covers more joins tests/fuzz/corpus.
fuzz: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(or $(FLAGS),all)

# What a power cut could leave of a spool: a life recorded call by call, and every state between two calls; FLAGS="--seed 1f2e3d4c" for one again.
crash-states: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m tests.crash_states $(FLAGS)

# Seeds by the thousand in simulated time; FLAGS="--seconds 3600 --seeds 1000000", or FLAGS="--seed 4711" for one with its trace.
simulate: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m tests.simulation --workers 2 $(FLAGS)

# FLAGS="--seed 7 --kills 500 --minutes 20": what it draws is in its seed, which it prints.
chaos: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m tests.chaos $(CHAOS_FLAGS) $(FLAGS)

# 200 reloads under load, at most 20 minutes; it prints its seed, and FLAGS="--seed 7 --reloads 50" makes that run again.
reload-test: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m tests.reload $(FLAGS)

# 100 upgrades under load, refused and overlapping ones among them, at most 20 minutes; FLAGS="--seed 7 --upgrades 50".
upgrade-test: $(VENV)/.dev $(FASTPATH)
	$(BIN)/python -m tests.upgrade $(FLAGS)

# Disks, descriptors, memory, clock, DNS: what fails around the engine (tests/faults/__init__.py has the table); FLAGS="-k disk".
faults: $(VENV)/.dev $(FASTPATH)
	$(BIN)/pytest -n 2 -m "not peers" tests/faults tests/system/test_spool_commands.py $(FLAGS)

clean:
	rm -rf $(VENV) build dist *.egg-info bench/bin
	find engine -name '*.c' -o -name '*.html' -o -name '*.so' | xargs rm -f
	find engine tests bench -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "engine needs Python 3.11 or later: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null && command -v cc >/dev/null \
	    || { echo "to build, $(PYTHON) needs its venv module and headers, and a C compiler (Debian: apt-get install python3-venv python3-dev gcc)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# An editable install: the extension is built in place, and bin/engine runs this tree.
$(FASTPATH): $(VENV)/.runtime pyproject.toml setup.py engine/_fastpath.pyx engine/_fastpath.pxd engine/_stream.pyx $(TYPES) $(TYPES:.pxd=.py)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

# Pin anew, within the ranges of pyproject.toml; needs pip-tools.
PIN := pip-compile --quiet --generate-hashes --no-header --no-annotate --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
       --no-emit-trusted-host --no-emit-options
lock:
	$(PIN) --extra build -o requirements.txt pyproject.toml
	$(PIN) --extra build --extra test --extra check -o requirements-dev.txt pyproject.toml
