# Each target can be the first command typed in a checkout: it makes the virtual
# environment that it needs, with the Python (3.10 or later) that PYTHON names.
PYTHON ?= python3
VENV ?= .venv

bin = $(VENV)/bin
bench_bin = .venvs/bench/bin
pip = $(bin)/python -m pip -qq --disable-pip-version-check
# Python compiles what is imported; pip would compile all that there is, for half of its time.
pip_install = $(pip) install --no-compile
bench_pip = $(bench_bin)/python -m pip -qq --disable-pip-version-check
coverage = $(abspath $(bin))/coverage
sources = pyproject.toml setup.py $(wildcard psycogreen/*.pyx psycogreen/*.pxi psycogreen/*.[ch] psycogreen/*/*.pyx) psycogreen/_psycopg2/_guard_py.py

.PHONY: demo test test-core test-core-pure test-all test-libpq coverage sanitize debug soak bench bench-check bench-peers lint dist docs clean

demo: $(VENV)/demo-installed
	@$(bin)/python tests/demo.py

test: $(VENV)/dev-installed .venvs/gunicorn-25/installed $(VENV)/uwsgi-greenlet-installed
	$(bin)/python tests/run_matrix.py

# The short part of the suite that CI runs on the other versions of Python.
test-core: $(VENV)/test-installed
	$(bin)/python tests/run_matrix.py --core

# The same where there is no compiled loop.
test-core-pure: $(VENV)/test-installed
	$(bin)/python tests/run_matrix.py --core --pure

# The whole suite on gevent's other loops and eventlet's other hubs too.
test-all: $(VENV)/dev-installed
	$(bin)/python tests/run_matrix.py --all

# What the version of libpq decides, with the system's (libpq-dev): psycopg2-binary brings a newer one.
test-libpq: .venvs/libpq/installed
	PYTHONPATH=$(abspath $(<D)) $(bin)/python -c 'import psycopg2; print("libpq", psycopg2.__libpq_version__)'
	PYTHONPATH=$(abspath $(<D)) $(bin)/python tests/run_matrix.py --only "compiled on gevent" -m "core or libpq"

# Of the Python modules by branch, of the Cython ones by line. Traced, the loops
# are slow: tests of how long something takes fail, and do not count here.
coverage: .venvs/coverage/installed
	cd $(<D) && $(coverage) erase
	-cd $(<D) && $(coverage) run $(abspath tests/run_matrix.py) --core -m "not once and not heavy"
	cd $(<D) && $(coverage) combine --quiet
	cd $(<D) && $(coverage) report --show-missing --skip-empty

checked_runs = "compiled on gevent" "compiled on eventlet" "compiled on asyncio (asyncio)"
checked_marks = "(core or hub) and not once and not heavy"

# The tests of the compiled modules under AddressSanitizer and UndefinedBehaviorSanitizer.
# greenlet copies C stacks, so variables on the stack can't be watched.
sanitize: .venvs/sanitized/installed
	for run in $(checked_runs); do \
	    PYTHONPATH=$(abspath $(<D)) PYTHONMALLOC=malloc \
	    LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0:replace_intrin=0:detect_stack_use_after_return=0 \
	    $(bin)/python tests/run_matrix.py --only "$$run" -m $(checked_marks) || exit 1; \
	done

# The same in a CPython that checks its objects, its memory and how it is called: Debian's python3-dbg.
DEBUG_PYTHON ?= python3-dbg
debug: .venvs/debug/installed
	for run in $(checked_runs); do \
	    PYTHONMALLOC=debug $(<D)/bin/python tests/run_matrix.py --only "$$run" -m $(checked_marks) || exit 1; \
	done

# Everything goes wrong at full load, for half an hour or for SOAK_MINUTES.
SOAK_MINUTES ?= 30
soak: $(VENV)/dev-installed
	$(pip) install --group soak
	$(bin)/python tests/soak.py --minutes $(SOAK_MINUTES) --picture soak.svg

bench: .venvs/bench/installed
	@$(bench_bin)/python benchmarks/speed.py

# Instructions per query against the recorded ones.
bench-check: .venvs/bench/installed
	$(bench_bin)/python benchmarks/check.py

# Beside every alternative, each in an environment of its own. PEERS has options: --rounds 1 --seconds 0.1
peers = $(basename $(notdir $(wildcard benchmarks/peers/*.txt)))
bench-peers: .venvs/bench/installed $(peers:%=.venvs/peers/%/installed)
	@$(bench_bin)/python benchmarks/peers.py --json peers.json --picture peers.svg $(PEERS)

lint: $(VENV)/dev-installed
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	PATH="$(abspath $(bin)):$$PATH" cython-lint psycogreen
	$(bin)/mypy
	$(bin)/lint-imports --no-cache

dist: $(VENV)/dev-installed
	$(bin)/python -m build
	$(bin)/twine check --strict dist/*

# The site of the documentation, in site/. A warning, as of a dead link, is an error.
docs: .venvs/docs/installed
	NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/mkdocs build --strict

clean:
	rm -rf build dist site *.egg-info psycogreen/*.so psycogreen/*/*.so $(VENV) .venvs

$(VENV)/pip-installed:
	$(PYTHON) -m venv $(VENV)
	$(pip) install --upgrade pip
	@touch $@

$(VENV)/demo-installed: $(VENV)/pip-installed $(sources)
	$(pip_install) --group demo --editable '.[gevent,eventlet,binary]'
	@touch $@

$(VENV)/test-installed: $(VENV)/pip-installed $(sources)
	$(pip_install) --group test --editable '.[gevent,eventlet,asyncio,binary]'
	@touch $@

$(VENV)/dev-installed: $(VENV)/pip-installed $(sources)
	$(pip_install) --group dev --editable '.[gevent,eventlet,asyncio,binary]'
	@touch $(VENV)/test-installed $@

# The last gunicorn that has an eventlet worker, beside the newest in $(VENV).
.venvs/gunicorn-25/installed: $(VENV)/pip-installed
	$(pip) install --upgrade --no-deps --target $(@D) 'gunicorn<26'
	@touch $@

.venvs/libpq/installed: | $(VENV)/dev-installed
	$(pip) install --upgrade --no-deps --no-binary psycopg2 --target $(@D) psycopg2
	@touch $@

# A copy of the package, in which the Cython modules report each line to the tracer. Without
# the compiled guard: its source is a Python module, which would have two tracers.
.venvs/coverage/installed: $(VENV)/dev-installed $(shell find psycogreen -name '*.p[yx]*')
	$(pip) install --group coverage
	rm -rf $(@D)
	mkdir -p $(@D)
	cp -r psycogreen $(@D)
	find $(@D) -name '*.so' -delete
	cd $(@D) && CPATH=$$($(abspath $(bin))/python -c 'import greenlet; print(greenlet.__path__[0])') \
	    CFLAGS="-O1 -DCYTHON_TRACE_NOGIL=1" \
	    $(abspath $(bin))/cythonize --inplace --quiet -X linetrace=True $$(find psycogreen -name '*.pyx' -not -name _guard.pyx)
	cp pyproject.toml $(@D)
	@touch $@

.venvs/sanitized/installed: $(VENV)/dev-installed $(shell find psycogreen -name '*.p[yx]*')
	rm -rf $(@D)
	mkdir -p $(@D)
	cp -r psycogreen setup.py pyproject.toml README.md LICENSE $(@D)
	find $(@D) -name '*.so' -delete
	cd $(@D) && CPATH=$$($(abspath $(bin))/python -c 'import greenlet; print(greenlet.__path__[0])') \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined --param asan-stack=0" \
	    LDFLAGS="-fsanitize=address,undefined" $(abspath $(bin))/python setup.py -q build_ext --inplace
	@touch $@

# The debug CPython could load what was built for the other one, but that would check nothing of its own.
.venvs/debug/installed: $(sources)
	PYTHONWARNINGS=ignore PIP_NO_BINARY=greenlet,gevent,psycopg2-binary $(MAKE) PYTHON=$(DEBUG_PYTHON) VENV=$(@D) $(@D)/test-installed
	@touch $@

# With its plugin greenlet. Compiled, which takes half a minute: a wheel that pip has kept may be one without.
$(VENV)/uwsgi-greenlet-installed: | $(VENV)/dev-installed
	UWSGI_EMBED_PLUGINS=greenlet CPATH="$$($(bin)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" \
	    $(pip) install --no-cache-dir --force-reinstall uwsgi==2.0.31 || echo "uWSGI can't be built here: its tests are skipped"
	@touch $@

.venvs/docs/installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --upgrade pip
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --group docs
	@touch $@

# The figures depend on the versions of what is measured, so these are pinned.
.venvs/bench/installed: $(sources) benchmarks/requirements.txt
	$(PYTHON) -m venv .venvs/bench
	$(bench_pip) install --upgrade pip setuptools
	$(bench_pip) install --requirement benchmarks/requirements.txt
	$(bench_pip) install --no-deps --no-build-isolation --editable .
	@touch $@

.venvs/peers/psycogreen/installed: $(sources) $(shell find psycogreen -name '*.py')
.venvs/peers/%/installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --upgrade pip
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --requirement $<
	@touch $@
