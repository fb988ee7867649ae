# Everything lives in one virtual environment, .venv. Each target installs what it needs the first
# time and again when pyproject.toml changes. ARGS goes to the program: make test ARGS=tests/test_layout.py

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

.NOTPARALLEL:
.PHONY: help setup demo test test-ray check bench

help:
	@echo 'make setup   install nnopt into .venv'
	@echo 'make demo    run jobs/digits_search.yaml: a search that ends in a report'
	@echo 'make test    run the tests'
	@echo 'make test-ray run what uses Ray with another Ray: RAY=2.55.0, the oldest, by default'
	@echo 'make check   style and types: ruff, mypy'
	@echo 'make bench   print the benchmark ratios'

setup: $(VENV)/.core
	@echo 'Ready. To have the program at hand: source $(VENV)/bin/activate'

demo: $(VENV)/.core
	@$(PY) -m nnopt_ray run jobs/digits_search.yaml $(ARGS)

test: $(VENV)/.test
	@$(PY) -m pytest $(if $(ARGS),$(ARGS),$(BOTH))

# What uses Ray, with another Ray in front of all else that .venv has. It installs Ray alone, beside .venv.
RAY ?= 2.55.0
OTHER := $(VENV)-ray-$(RAY)
USES_RAY := -m ray
# Older Rays leave files and processes of theirs unclosed (ray/_private/node.py of 2.55), which is not ours to fail for.
OLD_WARNINGS := -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning

test-ray: $(OTHER)/.test
	@$(OTHER)/bin/python -m pytest $(OLD_WARNINGS) $(if $(ARGS),$(ARGS),$(USES_RAY))

$(OTHER)/.test: $(VENV)/.test
	@echo 'Installing Ray $(RAY) into $(OTHER).'
	@$(PY) -m venv --clear --without-pip $(OTHER)
	@echo "import site; site.addsitedir('$$(realpath $(VENV))/$$(cd $(OTHER) && echo lib/python3*/site-packages)')" \
	> $$(echo $(OTHER)/lib/python3*/site-packages)/zz_all_else.pth
	@$(PY) -m pip --python $(OTHER)/bin/python install --disable-pip-version-check --no-input -q 'ray[tune,train,default]==$(RAY)'
	@$(PY) -m pip --python $(OTHER)/bin/python install --disable-pip-version-check --no-input -q --no-deps \
	--ignore-installed -e .
	@$(OTHER)/bin/python -c 'import ray; assert ray.__version__ == "$(RAY)", ray.__file__'
	@touch $@

# Two processes, as half the time of the Ray tests is waiting; a file stays in one, as its tests share what they made.
BOTH := -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.test
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: $(VENV)/.bench
	@set -e; for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(PY) $$file $(ARGS); done

# .test brings the core too, so that a fresh `make test` asks pip once; it does not depend on .core.
$(VENV)/.core: pyproject.toml | $(PY)
	$(call install,)

$(VENV)/.test: pyproject.toml | $(PY)
	$(call install,[test])
	@touch $(VENV)/.core

$(VENV)/.bench: pyproject.toml | $(PY)
	$(call install,[test$(comma)bench])
	@touch $(VENV)/.core $(VENV)/.test

comma := ,

define install
@echo 'Installing nnopt-ray$(1) into $(VENV). The first time takes some minutes.'
@$(PY) -m pip install --disable-pip-version-check --no-input -e '.$(1)' > $(VENV)/pip.log 2>&1 \
	|| { cat $(VENV)/pip.log >&2; echo 'make: pip failed; its whole output is above.' >&2; exit 1; }
@touch $@
endef

# --clear: this rule runs only when the interpreter in .venv is missing or points nowhere.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	|| { echo "make: $(PYTHON) is not Python 3.11, 3.12 or 3.13. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) \
	|| { rm -rf $(VENV); echo 'make: no virtual environment could be made (Debian: apt-get install python3-venv).' >&2; exit 1; }
