# Two commands for newcomers: `make demo` and `make test`. The others are parts of the second.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

.PHONY: demo test torture mutants readers fuzz bench slurm slurm-matrix cluster container image setup setup-test packages lint docs clean

demo: setup  ## Embed examples/ offline: composition, untrained ESM-2 8M, untrained DNABERT-S
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

test: setup-test lint  ## Everything; what a machine lacks is skipped with the reason
	@echo "two processes: what waits for Slurm and the image, told at the end, beside what computes"; \
	$(PYTEST) -m "(slurm or container) and not matrix" --durations=15 >.cluster-tests.log 2>&1 & cluster=$$!; \
	$(PYTEST) -m "not (slurm or container)" --durations=15; computing=$$?; \
	wait $$cluster; waiting=$$?; cat .cluster-tests.log; exit $$((computing + waiting))

slurm: setup-test  ## The tests on a real Slurm alone
	$(PYTEST) tests/slurm --durations=0 --capture=no

slurm-matrix: setup-test  ## The long ones: what happens times how the site is set up
	$(PYTEST) tests/slurm -m matrix --durations=0

cluster: setup-test  ## A Slurm of three nodes to play with, in ./cluster; take it down with tests/slurm/cluster.sh
	tests/slurm/cluster.sh up cluster
	@echo "down again: tests/slurm/cluster.sh down cluster"

container: setup-test  ## The tests of the image alone
	$(PYTEST) tests/container --durations=0 --capture=no

bench: setup-test .venv-esm-cpp/.installed  ## Every benchmark that needs no GPU; a report in benchmarks/reports
	$(BIN)/python -m benchmarks

.venv-esm-cpp/.installed:  # a peer that needs an older numpy; without it the benchmarks leave it out
	$(PYTHON) -m venv .venv-esm-cpp
	-.venv-esm-cpp/bin/pip install --quiet --disable-pip-version-check esm-cpp==0.2.1
	touch $@

torture: setup-test  ## Every storage fault, twins interleaved, hundreds of kills, disks that run full or forget: half an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture

mutants: setup-test  ## Bugs put in one by one where the promises rest; which of them no test finds: some hours
	$(PIP) mutmut
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 PYTHONMALLOC=malloc $(BIN)/python -m tests.torture.mutants

readers: setup-test  ## Every Parquet file that we write, opened by old and new readers, each in an environment of its own: a few minutes
	$(BIN)/python -m tests.readers

fuzz: setup-test  ## 100,000 bad files in front of every reader, made with coverage in view, and 10,000 made from rules: an hour
	$(PIP) atheris
	$(BIN)/python -m tests.fuzz.guided
	HPC_EMBED_FUZZ_CASES=10000 $(PYTEST) tests/fuzz --durations=0

image: setup  ## hpc_embed.sif; LOCK=lock-cpu.txt for one without CUDA
	PYTHON=$(BIN)/python bash container/build.sh

setup: $(VENV)/.installed
setup-test: packages $(VENV)/.installed-test
packages:  # first of all, since they bring a C compiler where there is none
	bash .ci/install-debian.sh
	bash .ci/install-apptainer.sh
	PYTHON=$(PYTHON) bash .ci/install-antiberty.sh

$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(wildcard hpc_embed/*/kernels/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[torch,report]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[torch,test]'
	touch $@

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## Write docs/commands.md anew
	$(BIN)/python -m docs.generate

clean:
	rm -rf mutants .readers .cluster-tests.log $(VENV) .venv-esm-cpp demo build dist *.egg-info
