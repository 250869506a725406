# The only commands to know. `make demo` and `make test` set up everything they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APT_TEST := dcmtk dicom3tools curl postgresql nginx orthanc orthanc-dicomweb rsyslog rsyslog-openssl systemd wrk
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench soak tools clean

help: ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(STAMP) ## The whole story on one machine: PACS, report, DMP, partner
	$(BIN)/drimbox demo

# Three workers for two cores: many tests wait for a timer or a process. Their order: tests/conftest.py.
test: $(STAMP) tools lint ## Lint, types, contracts and every test but the soaks
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not soak and not bench"

lint: $(STAMP) ## Ruff, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) tools ## Benchmarks: ratios against the named peer of the same run
	$(BIN)/python -m tests.benchmarks

soak: $(STAMP) tools ## The long runs
	$(BIN)/pytest -m soak --timeout 3600

# What the tests need beyond pip; without root the tests that need it skip and say so.
tools:
	@missing=""; for tool in storescu dciodvfy curl nginx Orthanc rsyslogd wrk systemd-analyze; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so >/dev/null 2>&1 || missing="$$missing orthanc-dicomweb"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(APT_TEST) >/dev/null; \
	elif [ -n "$$missing" ]; then echo "not installed:$$missing (apt-get install $(APT_TEST)); their tests will skip"; fi

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null; } \
		|| { echo "python3-venv is needed: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,postgresql]'
	@touch $@

clean: ## Remove what the targets made
	rm -rf $(VENV) build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
