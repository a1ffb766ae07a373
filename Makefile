# The first command typed may be any of demo, test, bench and lint: each makes the
# virtual environment that it needs, with whatever Python 3.10 or later PYTHON names.
PYTHON ?= python3
VENV ?= .venv

bin = $(VENV)/bin
pip = $(bin)/python -m pip -qq --disable-pip-version-check
bench_pip = .venvs/bench/bin/python -m pip -qq --disable-pip-version-check
sources = pyproject.toml setup.py psycogreen/_waitloop.pyx

.PHONY: demo test test-core bench bench-check lint dist clean

demo: $(VENV)/demo-installed
	@$(bin)/python tests/demo.py

test: $(VENV)/dev-installed
	$(bin)/python tests/run_matrix.py

# The short part of the suite that CI runs on the other versions of Python.
test-core: $(VENV)/dev-installed
	$(bin)/python tests/run_matrix.py --core

bench: .venvs/bench/installed
	@.venvs/bench/bin/python benchmarks/speed.py

# Instructions per query against the recorded ones.
bench-check: .venvs/bench/installed
	.venvs/bench/bin/python benchmarks/check.py

lint: each makes the
# virtual environment that it needs, with whatever Python 3.10 or later PYTHON names.
PYTHON ?= python3
VENV ?= .venv

bin = $(VENV)/bin
pip = $(bin)/python -m pip -qq --disable-pip-version-check
bench_pip = .venvs/bench/bin/python -m pip -qq --disable-pip-version-check
sources = pyproject.toml setup.py psycogreen/_waitloop.pyx

.PHONY: demo test test-core bench bench-check lint dist clean

demo: $(VENV)/demo-installed
	@$(bin)/python tests/demo.py

test: $(VENV)/dev-installed
	$(bin)/python tests/run_matrix.py

test-core: $(VENV)/dev-installed
	$(bin)/python tests/run_matrix.py -m core

bench: $(VENV)/dev-installed
	$(bin)/python benchmarks/bench.py

lint: $(VENV)/dev-installed
	$(bin)/ruff check .
	PATH="$(abspath $(bin)):$$PATH" cython-lint psycogreen
	$(bin)/mypy

dist: $(VENV)/dev-installed
	$(bin)/python -m build
	$(bin)/twine check --strict dist/*

clean:
	rm -rf build dist *.egg-info psycogreen/*.so $(VENV) .venvs

$(VENV)/pip-installed:
	$(PYTHON) -m venv $(VENV)
	$(pip) install --upgrade pip
	@touch $@

$(VENV)/demo-installed: $(VENV)/pip-installed $(sources)
	$(pip) install --group demo --editable '.[gevent,eventlet,binary]'
	@touch $@

$(VENV)/dev-installed: $(VENV)/pip-installed $(sources)
	$(pip) install --group dev --editable '.[gevent,eventlet,binary]'
	@touch $@

# The figures depend on the versions of what is measured, so these are pinned.
.venvs/bench/installed: $(sources) benchmarks/requirements.txt
	$(PYTHON) -m venv .venvs/bench
	$(bench_pip) install --upgrade pip setuptools
	$(bench_pip) install --requirement benchmarks/requirements.txt
	$(bench_pip) install --no-deps --no-build-isolation --editable .
	@touch $@
