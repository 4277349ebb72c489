# `make help` lists the targets. Each first sets up what it needs: .venv with the pinned
# requirements, and the native libraries, for whatever compilers there are. What is up to date is
# left alone. Settings, on the command line or in the environment:
#
#   PYTHON=python3.12        the interpreter that .venv is made of, 3.11 or later
#   PYXAI_FAST_NATIVE=off    no native libraries: pure PyTorch
#   PYTEST_ARGS="-k path"    more arguments for pytest; "-n 0" runs all tests in one process
#   BENCH_ARGS="--ops noise" what to measure again: see benchmarks/run.py
#   CXX, PYXAI_FAST_PYTHON, PYXAI_FAST_CUDA, PYXAI_FAST_CUDA_ARCHS, CMAKE_ARGS, MAX_JOBS
#                            for the build: see setup.py

SHELL := bash
VENV := .venv
DOCS_VENV := .venv-docs
QUANTUS_VENV := .venv-quantus
PEERS_VENV := .venv-peers
VISION_VENV := .venv-vision
PY := $(VENV)/bin/python
# A process for each core; the tests of a file share what they set up.
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-quantus test-vision peers bench lint docs clean FORCE

help:
	@echo "make demo    explain handwritten digits with every method; writes demo/"
	@echo "make test    run the tests"
	@echo "make test-quantus    compare our metrics with Quantus's, in an environment of its own"
	@echo "make test-vision     compare models by name with torchvision and timm, in another"
	@echo "make peers   all that figures are compared with, for benchmarks; in .venv-peers"
	@echo "make bench   run the benchmarks"
	@echo "make lint    check formats, style and types"
	@echo "make docs    build the documentation, build/site/index.html"
	@echo "make clean   delete everything that these make"
	@echo
	@echo "Settings: PYTHON=python3.12, PYXAI_FAST_NATIVE=off, PYTEST_ARGS=...; more in the Makefile."

demo: $(VENV)/.installed
	$(PY) -m pyxai_fast.demo --out demo

test: $(VENV)/.installed
	$(PY) -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-quantus: $(QUANTUS_VENV)/.installed
	$(QUANTUS_VENV)/bin/python -m pytest -rs tests/test_metrics_agree.py \
	  tests/test_metrics_agree_quantus_changes.py tests/test_door_quantus.py

test-vision: $(VISION_VENV)/.installed
	$(VISION_VENV)/bin/python -m pytest -rs tests/test_door_vision.py

# Packages that pin versions which the suite does not have, or gigabytes that nothing here needs:
# each environment sees the suite's packages, and only what it misses is installed beside them.
$(QUANTUS_VENV)/.installed $(VISION_VENV)/.installed $(PEERS_VENV)/.installed: .venv-%/.installed: requirements-%.txt $(VENV)/.installed
	@echo "Installing requirements-$*.txt beside the suite's packages"
	@$(PY) -m venv --clear $(@D)
	@$(PY) -c 'import sysconfig; print("import site; site.addsitedir({!r})".format(sysconfig.get_path("purelib")))' \
	  > "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/suite.pth"
	@$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r $< \
	  || { echo "make: not all packages of $< could be had; pip says above which" >&2; exit 1; }
	@touch $@

peers: $(PEERS_VENV)/.installed

bench: $(PEERS_VENV)/.installed
	$(PEERS_VENV)/bin/python benchmarks/run.py $(BENCH_ARGS)

lint: lint-style lint-format lint-cpp lint-types

.PHONY: lint-style lint-format lint-cpp lint-types
lint-style lint-format lint-cpp lint-types: $(VENV)/.requirements

lint-style:
	$(PY) -m ruff check .
lint-format:
	$(PY) -m ruff format --check .
lint-cpp:
	$(VENV)/bin/clang-format --dry-run -Werror $$(find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
lint-types:
	$(PY) -m mypy

# The site reads the sources, and needs neither torch nor the package.
docs: $(DOCS_VENV)/.requirements
	$(DOCS_VENV)/bin/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(DOCS_VENV) $(QUANTUS_VENV) $(VISION_VENV) $(PEERS_VENV) build dist demo pyxai_fast/_native *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find pyxai_fast tests -name __pycache__ -prune -exec rm -rf {} +

# --- what there is here --------------------------------------------------------------------------

# A program counts when it runs: a bare macOS has a /usr/bin/c++ that only offers an installation.
first_running = $(shell for p in $(1); do "$$p" --version >/dev/null 2>&1 && echo "$$p" && break; done)
first_line = $(if $(1),$(shell "$(1)" --version | head -n 1))

CXX_NAMED := $(if $(filter-out default undefined,$(origin CXX)),$(firstword $(CXX)))
COMPILER := $(call first_running,$(CXX_NAMED) c++ g++ clang++)
NVCC := $(call first_running,nvcc $(or $(CUDA_HOME),/usr/local/cuda)/bin/nvcc)

NATIVE_WISH := $(or $(PYXAI_FAST_NATIVE),on)
override export PYXAI_FAST_NATIVE := $(if $(COMPILER),$(NATIVE_WISH),off)

NO_COMPILER := No C++ compiler found: install one (Debian/Ubuntu: apt-get install g++; \
Fedora: dnf install gcc-c++; macOS: xcode-select --install). \
Going on with the pure-PyTorch fallback.

# --- .venv, and .venv-docs: each file below says, by its date, when one step was last done --------

SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))

# A PYTHON that the caller names replaces a .venv of another version; otherwise .venv stays.
ifneq ($(origin PYTHON),undefined)
$(VENV)/.python $(DOCS_VENV)/.python: FORCE
endif
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$p && break; done)

$(VENV)/.python $(DOCS_VENV)/.python:
	@python='$(PYTHON)'; say() { echo "make: $$*" >&2; exit 1; }; \
	test -n "$$python" || say "Python 3.11 or later was not found; install it, or name it: make PYTHON=/path/to/python3"; \
	version=$$("$$python" -c 'import platform; print(platform.python_version())' 2>/dev/null) \
	  || say "PYTHON=$$python does not run"; \
	"$$python" -c '$(SUPPORTED)' || say "Python 3.11 or later is needed, and $$python is $$version; name another: make PYTHON=python3.12"; \
	test "$$version" != "$$(cat $@ 2>/dev/null)" || exit 0; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null \
	  || say "$$python has no venv module; install it (Debian/Ubuntu: apt-get install python3-venv)"; \
	echo "Creating $(@D) with Python $$version"; \
	"$$python" -m venv --clear $(@D) && echo "$$version" > $@

$(VENV)/.requirements: requirements.txt
$(DOCS_VENV)/.requirements: requirements-docs.txt
$(VENV)/.requirements $(DOCS_VENV)/.requirements: %/.requirements: %/.python
	@echo "Installing the pinned requirements; the first time takes some minutes"
	@set -o pipefail; $(@D)/bin/python -m pip install --disable-pip-version-check -r $(filter %.txt,$^) | { \
	  grep --line-buffered -oE '^ *(Downloading|Using cached|Processing) [^ ]+( \([0-9.]+ .?B\))?|^Installing collected packages' \
	  || true; } \
	  || { echo "make: not all packages of $(filter %.txt,$^) could be had; pip says above which" >&2; exit 1; }
	@touch $@

# Rewritten when a compiler comes, goes or changes, so that the next step is done again.
$(VENV)/.toolchain: FORCE | $(VENV)/.python
	@$(if $(COMPILER)$(filter off,$(NATIVE_WISH)),,echo "$(NO_COMPILER)")
	@echo "native: $(PYXAI_FAST_NATIVE); compiler: $(COMPILER) $(call first_line,$(COMPILER));" \
	  "nvcc: $(NVCC); $(PYXAI_FAST_PYTHON) $(PYXAI_FAST_CUDA) $(PYXAI_FAST_CUDA_ARCHS) $(CMAKE_ARGS)" > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

BUILT_FROM := CMakeLists.txt setup.py pyproject.toml pyxai_fast/version.txt $(shell find cmake csrc -type f)

$(VENV)/.installed: $(VENV)/.requirements $(VENV)/.toolchain $(BUILT_FROM)
	@$(if $(filter $(VENV)/.toolchain,$?),rm -rf build/native)
	@echo "Installing pyxai_fast, native libraries: $(PYXAI_FAST_NATIVE)"
	@set -o pipefail; log=$(VENV)/build.log; \
	$(PY) -m pip install --disable-pip-version-check -v --no-build-isolation --no-deps -e . 2>&1 \
	  | tee $$log | { grep --line-buffered -oE '(setup: .*|\[[0-9]+/[0-9]+\] .*)' || true; } \
	  || { cat $$log; exit 1; }
	@touch $@
