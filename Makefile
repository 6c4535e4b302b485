# Everything a contributor or a CI machine runs. A bare clone needs python3 >= 3.11 and make; each target
# builds the virtual environment it needs the first time and finds it ready the second time.

PYTHON ?= python3
VENV ?= .venv
CORE_VENV ?= .venv-core
OLDEST_VENV ?= .venv-oldest
MATRIX_VENV ?= .venv-frameworks
CUDA_VENV ?= .venv-cuda
DOCS_VENV ?= .venv-docs
# Processes that run tests side by side. Each may load torch and jax (about 1 GiB), so this is not the core count.
JOBS ?= 2
# Further arguments for pytest or bnspec-conformance, as in `make test ARGS='-k renorm'`.
ARGS ?=

PIP_INSTALL = -m pip install -qq --disable-pip-version-check --constraint constraints.txt
# What an installed environment depends on: requirements, entry points, pinned versions.
PINS = pyproject.toml constraints.txt

# What JAX compiles is kept between tests, processes, environments and runs, as numba's kernels are beside their sources:
# most of the time of JAX's tests is XLA's.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help bench-cpu bench-gpu bench-jax clause conformance docs gallery quick test test-core test-docs test-oldest test-cuda test-gpu test-frameworks test-js selftest matrix matrix-short pages lint format wheel-test clean clean-venv

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

conformance: $(VENV)/.stamp-conformance ## Put the NumPy backend through the conformance suite
	$(VENV)/bin/bnspec-conformance run numpy $(ARGS)

# One thread per process: the tests' arrays are small, and the processes already use the cores.
test: $(VENV)/.stamp-dev ## Run every test on every subject that a CPU can run
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/support/kept_kernels.py
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# Chosen by folder: what the core, the layer and the CPU kernels compute, and a few cases of every check of values.
quick: $(VENV)/.stamp-dev ## While writing code: ruff, unit tests, and few cases of the checks on NumPy and strict
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m ruff check .
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n $(JOBS) --dist worksteal --subject numpy --subject strict --max-examples 2 --bnspec-sizes none \
	  tests/core tests/layer tests/cpu $(addprefix conformance/bnspec_conformance/checks/,arrays forward derivatives state) $(ARGS)

# Everything that one clause hangs on: `make clause ID=BN-RUN-4`, or a family, ID=BN-RUN.
clause: $(VENV)/.stamp-dev ## While writing a clause: ID's checks, its mutants, and whether the pages are up to date
	@test -n "$(ID)" || { echo "which clause? make clause ID=BN-RUN-4" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(VENV)/bin/bnspec-conformance run numpy-specification numpy strict --clause $(ID) --max-examples 12
	OMP_NUM_THREADS=1 $(VENV)/bin/bnspec-conformance selftest --clause $(ID) --seed 0 --jobs $(JOBS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -m pages tests/core/test_clauses.py tests/core/test_dialects.py tests/suite tests/release tests/vectors

pages: $(VENV)/.stamp-dev ## Write the pages that are generated (not those of measurements: matrix, bench-cpu, bench-jax)
	$(VENV)/bin/python tests/support/pages/generated_pages.py

test-core: $(CORE_VENV)/.stamp-core ## Run the tests without torch, jax and MPI
	OMP_NUM_THREADS=1 $(CORE_VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# In an environment of its own: the oldest versions that pyproject.toml allows of what the core and the suite need most.
test-oldest: $(OLDEST_VENV)/.stamp-oldest ## Run the core's tests, and few cases of the suite, with the oldest NumPy, array-api-compat and Hypothesis
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest -q -n $(JOBS) --dist worksteal tests/core $(ARGS)
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/bnspec-conformance run numpy strict --max-examples 4

# In an environment of its own: CuPy and NCCL are large. Without a device it compares the emulator with CuPy and runs on that.
test-cuda: $(CUDA_VENV)/.stamp-cuda ## Compare the emulated CuPy with CuPy, run what needs it, and the suite on CUDA devices where there are some
	$(CUDA_VENV)/bin/python -m pytest -q tests/cuda $(ARGS)

# node's packages lie in the example, which git ignores; where there is no node, the tests are skipped with that reason.
test-js: $(MATRIX_VENV)/.stamp-frameworks ## Install TensorFlow.js, put its layer to the test, and reproduce its findings
	cd examples/port-js && npm ci --silent --no-audit --no-fund
	OMP_NUM_THREADS=1 $(MATRIX_VENV)/bin/python -m pytest -q tests/frameworks/test_tfjs_port.py tests/frameworks/test_findings.py -k tfjs $(ARGS)

selftest: $(VENV)/.stamp-conformance ## Show that the suite finds every shipped wrong implementation, and no right one
	OMP_NUM_THREADS=1 $(VENV)/bin/bnspec-conformance selftest --jobs $(JOBS) $(ARGS)

# In an environment of its own: a dozen frameworks, of which the tests need none.
# It takes an hour of two cores: `ARGS='--rows .cache/rows'` keeps each row, and a run that was cut goes on from there.
matrix: $(MATRIX_VENV)/.stamp-frameworks ## Put every framework's own layer to the test and write docs/matrix.md
	$(MATRIX_VENV)/bin/bnspec-conformance matrix --jobs $(JOBS) -o docs/matrix.md $(ARGS)

matrix-short: $(MATRIX_VENV)/.stamp-frameworks ## Ask every adapter a few questions: do all still run?
	$(MATRIX_VENV)/bin/bnspec-conformance matrix --jobs $(JOBS) --smoke -o /dev/null $(ARGS)

# Paddle in a process of its own: its import crashes where TensorFlow was imported.
test-frameworks: $(MATRIX_VENV)/.stamp-frameworks ## Run the tests of the adapters and of the findings, which need the frameworks
	OMP_NUM_THREADS=1 $(MATRIX_VENV)/bin/python -m pytest -q -m "not paddle" tests/frameworks tests/release/test_jax_page.py tests/release/test_moving_page.py $(ARGS)
	OMP_NUM_THREADS=1 $(MATRIX_VENV)/bin/python -m pytest -q -m paddle tests/frameworks $(ARGS)

# mkdocs tells of its own future unless told not to.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DOCS_VENV)/.stamp-docs ## Build the documentation site into .cache/site; open .cache/site/index.html
	$(DOCS_VENV)/bin/python -m mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml $(ARGS)

test-docs: $(DOCS_VENV)/.stamp-docs ## Build the site anew, and check its links, anchors, names and clauses, and that it asks no other host
	$(DOCS_VENV)/bin/python -m pytest -q tests/release/test_site.py tests/release/test_site_pages.py $(ARGS)

gallery: $(MATRIX_VENV)/.stamp-bench ## Draw the plots of docs/gallery.md anew
	OMP_NUM_THREADS=1 $(MATRIX_VENV)/bin/python examples/gallery_statistics.py --folder docs/gallery
	OMP_NUM_THREADS=1 $(MATRIX_VENV)/bin/python examples/gallery_accuracy.py --folder docs/gallery --page docs/gallery.md

# With the frameworks, beside which it is; a quarter of an hour, on a machine that does nothing else.
bench-cpu: $(MATRIX_VENV)/.stamp-bench ## Time batch normalization on the CPU beside its peers and write docs/performance.md
	$(MATRIX_VENV)/bin/python benchmarks/cpu.py --page docs/performance.md $(ARGS)
	$(MATRIX_VENV)/bin/python benchmarks/growth.py --page docs/performance.md --plot docs/performance.svg

bench-jax: $(MATRIX_VENV)/.stamp-bench ## Time bnspec under jax.jit beside flax's layer and write docs/performance-jax.md
	$(MATRIX_VENV)/bin/python benchmarks/jax_layers.py --page docs/performance-jax.md $(ARGS)

# In the environment of PYTHON where that has CuPy and torch: a machine with a device may reach no package index.
bench-gpu: ## On a machine with a CUDA device: bits, waits, conformance and times, as JSON in .cache/gpu
	PYTHONPATH=$(CURDIR):$(CURDIR)/backends:$(CURDIR)/conformance $(PYTHON) benchmarks/gpu.py --out .cache/gpu $(ARGS)

test-gpu: ## The same without the times
	$(MAKE) bench-gpu ARGS='--stages facts,compile_all,bits,truth,waits,conformance'

lint: $(VENV)/.stamp-dev ## Check format, style and types
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python .ci/docstrings.py
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/python -m pyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.stamp-dev ## Format the code and apply the safe fixes
	$(VENV)/bin/python -m ruff check --fix-only --quiet .
	$(VENV)/bin/python -m ruff format .

wheel-test: ## Build sdist and wheel, and test the installed wheel away from the source tree
	PYTHON=$(PYTHON) .ci/wheel-test

clean: ## Remove what builds and runs left behind
	rm -rf dist build .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bnspec backends conformance tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

clean-venv: ## Remove the virtual environments
	rm -rf $(VENV) $(CORE_VENV) $(OLDEST_VENV) $(MATRIX_VENV) $(CUDA_VENV) $(DOCS_VENV)

# A stamp is written last, so an interrupted installation starts over. `python -m venv` on an existing
# environment keeps what is installed there.
%/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bnspec needs Python 3.11 or newer; choose one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(@D)
	@touch $@

$(VENV)/.stamp-conformance: $(PINS) | $(VENV)/.stamp-venv
	$(VENV)/bin/python $(PIP_INSTALL) --editable '.[conformance]'
	@touch $@

# The full environment contains the smaller one, so both stamps are fresh afterwards.
$(VENV)/.stamp-dev: $(PINS) | $(VENV)/.stamp-venv
	$(VENV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.stamp-conformance

$(CORE_VENV)/.stamp-core: $(PINS) | $(CORE_VENV)/.stamp-venv
	$(CORE_VENV)/bin/python $(PIP_INSTALL) --editable '.[conformance,safetensors,strict]' pytest-xdist
	@touch $@

# No constraints.txt here: it holds the newest versions.
$(OLDEST_VENV)/.stamp-oldest: $(PINS) .ci/oldest | $(OLDEST_VENV)/.stamp-venv
	$(OLDEST_VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[conformance]' pytest-xdist $$($(PYTHON) .ci/oldest)
	@touch $@

$(CUDA_VENV)/.stamp-cuda: $(PINS) | $(CUDA_VENV)/.stamp-venv
	$(CUDA_VENV)/bin/python $(PIP_INSTALL) --editable '.[conformance,cuda,mpi]'
	@touch $@

$(DOCS_VENV)/.stamp-docs: $(PINS) | $(DOCS_VENV)/.stamp-venv
	$(DOCS_VENV)/bin/python $(PIP_INSTALL) --editable '.[docs]'
	@touch $@

$(MATRIX_VENV)/.stamp-bench: $(MATRIX_VENV)/.stamp-frameworks
	$(MATRIX_VENV)/bin/python $(PIP_INSTALL) matplotlib
	@touch $@

$(MATRIX_VENV)/.stamp-frameworks: $(PINS) | $(MATRIX_VENV)/.stamp-venv
	$(MATRIX_VENV)/bin/python $(PIP_INSTALL) --editable '.[frameworks]'
	@touch $@
