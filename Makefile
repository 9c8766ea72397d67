# `make demo` and `make test` work from a fresh clone: they need python3 (3.11 or newer) and make. With a C compiler and
# Python's headers `make native` builds the compiled twins; `make install` and `make test` do so by themselves.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# What this file installs is compiled in its own step, where it can be seen and is done again when a source changes.
PIP := FASTGW_BUILD_NATIVE=0 $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test check native peers packaging binary binary-test image lint bench bench-test performance bench-peers shootout bench-scale soak docs site fuzz audit lock up down logs smoke clean tag sdist wheel wheels pack sums notes

help:
	@echo "make demo      run the gateway and a simulated engine, and stream one answer (ARGS=--once ends after it)"
	@echo "make test      lint, types and tests, over the compiled and the Python twins (ARGS='-k name' goes to pytest)"
	@echo "make check     lint, types and the tests that answer within a minute, over one twin (ARGS as for make test)"
	@echo "make install   a virtual environment in $(VENV) with fastgw and what its tests need"
	@echo "make native    compile the twins of the hot modules in place (make install and make test do it too)"
	@echo "make packaging build and install the wheels as users would, compile one more module; takes minutes and the network"
	@echo "make binary    freeze it: dist/fastgw, one program that needs no Python, and dist/fastgw-dir, the same as a folder"
	@echo "make peers     hold the cases of HTTP/2 against other programs: are they right?"
	@echo "make binary-test  build that twice and try it, on a machine without Python too; takes minutes, wants to be root"
	@echo "make image     build the image on a base made here, by buildah, and run it; takes minutes, the network, and root"
	@echo "make fuzz      hold the twins, httptools, h11 and readers of forms against each other, look for what costs too much, and"
	@echo "               try the suite's properties with thousands of examples (FUZZ_SECONDS=600, ARGS='heads sse properties')"
	@echo "make bench     measure CPU per request beside other proxies (ARGS='--seconds 2')"
	@echo "make bench-test  are the benchmarks right: their own tests, with the runs that make test leaves out"
	@echo "make performance  all rows of it, and where the time goes, written into docs/performance.md and benchmarks/README.md"
	@echo "make bench-peers  install the routers that make bench compares, each in an environment of its own"
	@echo "make shootout  others' published set-ups, over fastgw and whichever of the others can be installed, into docs/shootout.md"
	@echo "make bench-scale  the same with 10,000 connections, 1,000 engines, 100,000 keys, a million addresses, 10,000 streams"
	@echo "make soak      a million requests and 100,000 aborted streams, in each twin: nothing may stay behind; kill -9, 220 times"
	@echo "make audit     floors, hashes, licences and known vulnerabilities of what fastgw ships with (ARGS=--offline: no network)"
	@echo "make lock      pin and hash it anew, in requirements/; needs the network"
	@echo "make up        the gateway, a simulated engine, Prometheus, Grafana and Jaeger, by Compose (docs/monitoring.md)"
	@echo "make logs      what they say, until Ctrl-C (ARGS=gateway: that one alone)"
	@echo "make smoke     ask a running gateway whether it lists models, answers and streams"
	@echo "make down      end what make up started; what was kept stays (ARGS=--volumes: that too)"
	@echo "make docs      write the pages and dashboards that are generated from tables"
	@echo "make site      the documentation as a site, in build/site, by MkDocs; asks the package index once (and npm's, for diagrams)"
	@echo "make sdist     the source distribution, in dist/release; make wheel builds from it for this Python, make wheels for every one"
	@echo "               of them, in containers"
	@echo "make pack      what make binary made, under a release's names; make sums writes SHA256SUMS of all of dist/release, make notes"
	@echo "               what the changelog says of it, make tag TAG=v1.2.3 asks whether that is the version of this checkout"
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

# Where a compiler is; a line says so where none is. Costs nothing when all is up to date.
define build-native
	@FASTGW_BUILD_NATIVE=$${FASTGW_BUILD_NATIVE:-auto} $(BIN)/python native/build.py
endef

install: $(VENV)/.installed-dev
	@echo "compiling the hot modules, where a C compiler is: some minutes the first time, nothing when all is up to date ..."
	$(build-native)
	@echo "done: $(BIN)/fastgw --help"

demo: $(VENV)/.installed
	@$(BIN)/fastgw demo $(ARGS)

test: lint
	$(build-native)
	@$(BIN)/python scripts/test/both.py $(ARGS)

check: lint
	$(if $(filter 0,$(FASTGW_NATIVE)),,$(build-native))
	@$(BIN)/python scripts/test/check.py $(ARGS)

native: $(VENV)/.installed-dev
	@$(BIN)/python native/build.py $(ARGS)

# Compiled and Python twins over the same made-up bytes, FUZZ_SECONDS for each target; what it learns stays in build/fuzz.
# Then the suite's property tests, which have a fraction of these examples in make test.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.installed-dev
	$(build-native)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) -e '.[fuzz]'
	@FASTGW_NATIVE=1 $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

# The cases of HTTP/2 that the suite holds against the gateway, held against other programs: are they right?
peers: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest tests/h2cases tests/peers tests/control/test_openapi.py -m "peers or not peers" $(ARGS)

packaging: $(VENV)/.installed-dev
	$(build-native)
	@$(BIN)/python -m pytest tests/native/test_packaging.py tests/recipes/test_recipes.py -m "packaging or not packaging" $(ARGS)

# From the lock files, in an environment of its own below build/binary.
binary: $(VENV)/.installed
	@$(BIN)/python -m scripts.binary $(ARGS)
	@dist/fastgw self-test && dist/fastgw-dir/fastgw self-test

binary-test: $(VENV)/.installed-dev
	$(build-native)
	@$(BIN)/python -m pytest tests/deploy/test_binary.py tests/deploy/test_confined.py tests/deploy/test_unit.py -m packaging -s $(ARGS)

image: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest tests/deploy/test_image.py -m packaging -s $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(build-native)
	@$(BIN)/python -m benchmarks.wire $(ARGS)

# That the benchmarks measure what they say: the runs that make test leaves out.
bench-test: $(VENV)/.installed-dev
	$(build-native)
	@$(BIN)/python -m pytest tests/benchmarks -m "bench or not bench" $(ARGS)

# The pages' figures: long runs, on an idle machine with perf. ARGS="--seconds 1 --rounds 3" takes less time for the first.
performance: $(VENV)/.installed-dev
	$(build-native)
	@$(BIN)/python -m benchmarks.wire --rows all --seconds 1.5 --rounds 4 --publish $(ARGS)
	@$(BIN)/python -m benchmarks.wire.where --publish

# Each peer pins its own versions of the same packages, so each gets its own environment; one that cannot be had stops no other.
PEERS := $(patsubst %.txt,%/.installed,$(wildcard benchmarks/peers/*.txt)) $(patsubst %.npm,%/.installed,$(wildcard benchmarks/peers/*.npm))
bench-peers:
	@$(MAKE) --no-print-directory --keep-going $(PEERS)
	@echo "done: make bench measures them"

benchmarks/peers/%/.installed: benchmarks/peers/%.txt
	@echo "installing $$(cat $<) into $(@D) ..."
	@$(PYTHON) -m venv --clear $(@D)
	@timeout 900 $(@D)/bin/python -m pip --disable-pip-version-check install --quiet -r $< 2>$(@D)/why || { cat $(@D)/why >&2; exit 1; }
	@touch $@
	@echo "  $* is there"

benchmarks/peers/%/.installed: benchmarks/peers/%.npm
	@echo "installing $$(cat $<) into $(@D) ..."
	@mkdir -p $(@D)
	@timeout 900 npm install --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel error $$(cat $<) >/dev/null 2>$(@D)/why \
		|| { cat $(@D)/why >&2; exit 1; }
	@touch $@
	@echo "  $* is there"

# What could not be installed is on the page, with the reason. Ten minutes on an idle machine of two cores, without the installing.
shootout: $(VENV)/.installed-dev
	$(build-native)
	-@$(MAKE) --no-print-directory bench-peers
	@$(BIN)/python -m benchmarks.shootout --publish $(ARGS)

# One twin a run: FASTGW_NATIVE=0 or 1 chooses. Six minutes or so; ARGS='streams' and the like take less.
bench-scale: $(VENV)/.installed-dev
	@$(BIN)/python -m benchmarks.scale $(ARGS)

# SOAK_SHARE=0.1 in the environment runs a tenth of the requests.
soak: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m soak -s $(ARGS)

# Without its tools, or the network, it says what could not be checked, and does not pass: status 3 (1 when something failed).
audit-tools = $(BIN)/python -c 'import pip_audit, uv' 2>/dev/null || $(PIP) -e '.[audit]'
audit: $(VENV)/.installed-dev
	@$(if $(findstring --offline,$(ARGS)),:,$(audit-tools) || echo "note: pip-audit and uv cannot be installed here" >&2)
	@$(BIN)/python -m scripts.audit $(ARGS)

lock: $(VENV)/.installed-dev
	@$(audit-tools)
	@$(BIN)/python -m scripts.audit.resolve

# The stack of deploy/. STACK="deploy/compose.yaml deploy/compose.vllm.yaml" has vLLM in it, COMPOSE_PROFILES=gpu the GPU exporter.
COMPOSE ?= docker compose
STACK ?= deploy/compose.yaml
compose = $(COMPOSE) $(addprefix -f ,$(STACK))
up:
	@$(compose) up --detach --build --wait $(ARGS)
	@echo "the gateway: http://127.0.0.1:8080, Grafana: http://127.0.0.1:3000, Prometheus: http://127.0.0.1:9091, Jaeger: http://127.0.0.1:16686"

down:
	@$(compose) down $(ARGS)

logs:
	@$(compose) logs --follow --tail 100 $(ARGS)

# MODEL, BASE_URL and API_KEY as scripts/test/smoke.sh has them; the key is the first of the stack's.
smoke:
	@API_KEY="$${API_KEY:-$$(sed -n 's/^GATEWAY_API_KEYS=\([^,]*\).*/\1/p' deploy/.env 2>/dev/null)}" MODEL="$${MODEL:-sim}" \
		OLLAMA_BASE= bash scripts/test/smoke.sh

docs: $(VENV)/.installed
	@$(BIN)/fastgw docs --write docs
	@$(BIN)/python -m scripts.monitoring
	@$(BIN)/python -m scripts.site.walk
	@$(BIN)/python -m scripts.site.sized

# In an environment of its own below build/docs, from requirements/docs.lock.
site: $(VENV)/.installed
	@$(BIN)/python -m scripts.site

# The steps of a release, as .github/workflows/release.yml takes them; each by itself, with nothing but Python.
TAG ?=
sdist wheel wheels pack sums notes:
	@$(PYTHON) -m scripts.release $@

tag:
	@$(PYTHON) -m scripts.release tag "$(TAG)"

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find fastgw -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
