# Two commands: `make demo` shows the whole pipeline, `make test` proves it. Both make .venv when it is not there.
# `make test-all` adds the repeats and long runs that `make test` leaves out.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: demo test test-all lint resolve clean

demo: $(VENV)/.installed
	$(VENV)/bin/golf run jobs/smoke.yaml

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "" --hypothesis-profile thorough

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The pins as a stranger's machine resolves them: from the public index alone, whatever this machine is configured to add.
resolve: $(VENV)/.installed-test
	for version in 3.11 3.12 3.13; do \
		env -u UV_INDEX -u UV_FIND_LINKS $(VENV)/bin/uv pip compile --no-config --quiet --all-extras pyproject.toml \
			--constraint constraints.txt --python-version $$version --output-file $(VENV)/resolved-$$version.txt || exit 1; \
	done

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info
