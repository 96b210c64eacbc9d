# ShadowMesh: everything a developer runs. `make` alone lists the targets.
# `make demo` and `make test` do their own set-up on a fresh Debian 12 machine (as root).

VENV  ?= .venv
PYTHON = $(shell for python in python3 python3.13 python3.12 python3.11; do \
           "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
           && echo "$$python" && break; done)
BIN    = $(VENV)/bin
STAMPS = $(VENV)/.stamps

# What Debian has to provide: a compiler and libcrypto's headers, and the tools of the demo and the e2e tests.
# What compiles, and what the tests use besides.
BUILD_PACKAGES = build-essential python3-dev python3-venv libssl-dev
PACKAGES = $(BUILD_PACKAGES) curl iproute2 iputils-ping iputils-arping iperf3 tcpdump \
           nftables miniupnpd-nftables tinyproxy-bin android-libboringssl nats-server faketime dbus-daemon \
           chromium mandoc

EXT_SOURCES = $(wildcard ext/*.pyx ext/*.h shadowmesh/_ext/*.pxd) setup.py
# The systems that bench/compare.py measures ShadowMesh against; it skips what is not there.
BENCH_PACKAGES = fastd n2n nebula openssl openvpn tinc wireguard-go wireguard-tools
BENCHES      = startup throughput setup_time memory members clients relay migrate rekey roam fallback storm garbage hostile loop tcp
# clang and its runtime libraries: only fuzzing needs them.
FUZZ_PACKAGES = clang-14 libclang-rt-14-dev
FUZZ_SECONDS ?= 60
FUZZ          = .ci/instrument fuzz $(BIN)/python >/dev/null && $(BIN)/python -m fuzz.run
SANITIZE_SECONDS ?= 20
GIGABYTES ?= 10
PYTEST_FLAGS ?=
# The quick tests share the cores. Those with real clocks mostly wait, so three of their files run at a time, however
# many cores there are. As others may use the machine too, a test that fails is run once more: both are shown, and
# twice is a failure.
QUICK_TESTS  = $(BIN)/pytest -n $(shell nproc) --dist worksteal --reruns 1 -raR -m "not root" $(PYTEST_FLAGS)
REAL_TESTS   = $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --reruns 1 -raR -m root $(PYTEST_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help setup ext demo test unit e2e stateful lint format bench bench-micro transfer fuzz fuzz-long fuzz-coverage
.PHONY: sanitize tsan chaos soak verify audit docs man build deb deb-test clean distclean

help: ## List the targets (this is what `make` alone does).
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMPS)/ext $(STAMPS)/resolved ## Install what is missing: Debian packages, a virtual environment, the extensions.

ext: setup ## Build the Cython extensions in place, where their sources changed.

demo: setup ## Show it: a relay and two clients in network namespaces (root, two minutes).
	@$(BIN)/python -m shadowmesh.testing.demo

test: lint docs ## Run everything: lint, unit, protocol and end-to-end tests (root for the last).
	$(QUICK_TESTS)
	$(REAL_TESTS)

unit: setup ## Run the quick tests only: no root, no network.
	$(QUICK_TESTS)

e2e: setup ## Run the end-to-end tests only, in network namespaces (root).
	SHADOWMESH_REQUIRE_E2E=1 $(REAL_TESTS)

stateful: setup ## Drive the state machines against their models for long, with new examples (STATEFUL= one of them).
	HYPOTHESIS_PROFILE=long $(BIN)/pytest -n $(shell nproc) -o timeout=0 tests/stateful -k "$(STATEFUL)" $(PYTEST_FLAGS)

lint: setup ## Check style, types, layers and the Cython sources.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint ext shadowmesh/_ext

format: setup ## Format the Python sources.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: setup $(STAMPS)/bench ## Measure set-up and throughput, compare with other overlays (root, an hour).
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python "bench/$$bench.py"; done
	@echo "== compare"; $(BIN)/python bench/compare.py --save

bench-micro: setup ## Measure packets, look-ups and handshakes against their primitives (no root, seconds).
	@$(BIN)/python bench/micro.py

transfer: setup ## Compare what GIGABYTES (10) of transfers over each path carry in and out (root).
	$(BIN)/python bench/transfer.py --gigabytes $(GIGABYTES)

fuzz: setup $(STAMPS)/fuzz ## Fuzz every target for FUZZ_SECONDS (60) each, where the last run ended.
	$(FUZZ) --seconds $(FUZZ_SECONDS)

fuzz-long: setup $(STAMPS)/fuzz ## Fuzz TARGET for SECONDS, then merge what it found into its committed corpus.
	$(FUZZ) --seconds $(or $(SECONDS),3600) --merge $(TARGET)

fuzz-coverage: setup $(STAMPS)/fuzz ## Show what the committed corpora cover of the modules that each target names.
	@$(BIN)/python -m fuzz.lines $(TARGET)

sanitize: setup ## Run tests and fuzz targets of the extensions under AddressSanitizer and UBSan.
	.ci/sanitize address $(BIN)/python $(SANITIZE_SECONDS)

tsan: setup ## Run the extensions' tests and a stress test of their tables under ThreadSanitizer.
	.ci/sanitize thread $(BIN)/python $(SANITIZE_SECONDS)

chaos: setup ## Kill relays and clients at random under traffic for SECONDS (1800), with SEED (1) (root).
	$(BIN)/python -m shadowmesh.testing.chaos --seconds $(or $(SECONDS),1800) --seed $(or $(SEED),1)

soak: setup ## Rekey, roam and churn for SECONDS (1800), and see that nothing grows and all counters agree (root).
	$(BIN)/python bench/soak.py --seconds $(or $(SECONDS),1800)

verify: $(STAMPS)/verify ## Check the models of docs/models (ProVerif, if it is there, and Spin).
	$(BIN)/python docs/models/verify.py

audit: $(STAMPS)/audit ## Look at what a release is made of: versions, secrets, bill of materials, two builds.
	$(BIN)/python .ci/audit.py

docs: $(STAMPS)/docs ## Build the manual of docs/ into build/docs; a warning is a failure.
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs

man: setup ## Write the man pages of both commands and their verbs to build/man.
	@$(BIN)/python docs/man/make.py build/man
	@ls build/man | wc -l | xargs printf '%s pages in build/man; try: man -l build/man/shadowmesh-client.1\n'

build: setup ## Build the wheel into dist/.
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls -l dist

deb: $(STAMPS)/build ## Build the Debian package into dist/, for this machine's Debian.
	@echo "Building the package (a minute or two)"
	@"$(PYTHON)" .ci/deb.py dist

deb-test: setup deb ## Install the Debian package in a clean chroot, run it, also by systemd, purge it (root; debootstrap).
	@command -v debootstrap >/dev/null \
	|| DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
	@command -v systemd-nspawn >/dev/null \
	|| DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd-container >/dev/null \
	|| echo "Not to be had, so its tests are skipped, or fail in CI: systemd-container" >&2
	SHADOWMESH_DEB="$$(ls -t dist/shadowmesh_*.deb | head -n 1)" $(BIN)/pytest -ra \
	  -o faulthandler_timeout=0 tests/e2e/test_package.py tests/e2e/test_service.py $(PYTEST_FLAGS)

clean: ## Remove what was built; the virtual environment stays.
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f shadowmesh/_ext/*.so $(STAMPS)/ext
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too.
	rm -rf $(VENV)

# Of the Debian packages named in the first argument those that are missing. That of nats-server would also start
# one here; the tests start their own.
define INSTALL
	@if command -v dpkg-query >/dev/null; then \
	  missing=$$(for package in $(1); do \
	    dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || echo "$$package"; done); \
	  if [ -n "$$missing" ] && [ "$$(id -u)" != 0 ]; then \
	    echo "Missing Debian packages; run: sudo apt-get install" $$missing >&2; exit 1; \
	  elif [ -n "$$missing" ]; then \
	    echo "Installing Debian packages:" $$missing; \
	    idle=; case "$$missing" in *nats-server*) idle=nats-server;; esac; \
	    [ -z "$$idle" ] || systemctl mask --quiet --runtime $$idle 2>/dev/null; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing || exit 1; \
	    [ -z "$$idle" ] || { systemctl unmask --quiet --runtime $$idle; systemctl disable --quiet $$idle; } 2>/dev/null; \
	    true; \
	  fi; \
	else \
	  echo "No Debian here: a C compiler, OpenSSL 3 headers, iproute2, iperf3, tcpdump and nftables are taken to be there."; \
	fi
	@mkdir -p $(@D) && touch $@
endef

$(STAMPS)/system: Makefile
	$(call INSTALL,$(PACKAGES))

$(STAMPS)/build: Makefile
	$(call INSTALL,$(BUILD_PACKAGES))

# Unpacked only, for tests that run it in a namespace: to install it would change this machine's /etc/resolv.conf.
$(STAMPS)/resolved: Makefile | $(STAMPS)/venv
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  mkdir -p $(VENV)/debian && cd $(VENV)/debian && apt-get download -qq systemd-resolved 2>/dev/null \
	  && dpkg -x systemd-resolved_*.deb . && rm systemd-resolved_*.deb \
	  || echo "Not to be had, its tests will be skipped: systemd-resolved" >&2; fi
	@touch $@

$(STAMPS)/venv: pyproject.toml constraints.txt | $(STAMPS)/system
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=...)" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV) and building the extensions (a minute or two)"
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/pip install --quiet -c constraints.txt setuptools Cython
	@$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

$(STAMPS)/bench: Makefile pyproject.toml constraints.txt | $(STAMPS)/venv
	@# What the extra `bench` names; asking for the extra itself would build the extensions again.
	@$(BIN)/pip install --quiet -c constraints.txt matplotlib
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  for package in $(BENCH_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' \
	    || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$package" >/dev/null \
	    || echo "Not to be had, will be skipped: $$package" >&2; done; \
	else echo "Not root or no Debian: what is missing of '$(BENCH_PACKAGES)' will be skipped" >&2; fi
	@mkdir -p $(@D) && touch $@

$(STAMPS)/fuzz: Makefile pyproject.toml constraints.txt | $(STAMPS)/venv
	@$(BIN)/pip install --quiet -c constraints.txt atheris coverage
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  for package in $(FUZZ_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' \
	    || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$package" >/dev/null \
	    || exit 1; done; \
	elif ! command -v clang-14 >/dev/null; then echo "Fuzzing needs: $(FUZZ_PACKAGES)" >&2; exit 1; fi
	@mkdir -p $(@D) && touch $@

$(STAMPS)/audit: pyproject.toml constraints.txt | $(STAMPS)/venv
	@# What the extra `audit` names; asking for the extra itself would build the extensions again.
	@$(BIN)/pip install --quiet -c constraints.txt cyclonedx-bom detect-secrets pip-audit
	@touch $@

$(STAMPS)/docs: pyproject.toml constraints.txt | $(STAMPS)/venv
	@# What the extra `docs` names; asking for the extra itself would build the extensions again.
	@$(BIN)/pip install --quiet -c constraints.txt furo myst-parser sphinx
	@touch $@

# ProVerif is in no registry: verify.py says so where it is missing.
$(STAMPS)/verify: Makefile constraints.txt | $(STAMPS)/venv
	@# What the extra `verify` names; asking for the extra itself would build the extensions again.
	@$(BIN)/pip install --quiet -c constraints.txt pycparser z3-solver
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  command -v spin >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends spin \
	  >/dev/null || echo "Not to be had: spin" >&2; \
	else echo "Not root or no Debian: spin is not installed here" >&2; fi
	@mkdir -p $(@D) && touch $@

$(STAMPS)/ext: $(EXT_SOURCES) $(STAMPS)/venv
	@$(BIN)/python setup.py --quiet build_ext --inplace --parallel 2
	@touch $@
