# Needs make and Python 3.11 or 3.12; everything else goes into .venv.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROFILE ?= mini

# Meta's own package, for the test that its codes and ours are equal; its torchaudio has no build for every machine, and isn't needed
META := encodec==0.1.1

# one thread a worker, also where a profile asks for more: two workers on two cores would otherwise fight over them
ONE_THREAD := OMP_NUM_THREADS=1 OMP_THREAD_LIMIT=1

.DEFAULT_GOAL := help
.PHONY: help report test outputs lint format lab clean

help:
	@echo "make report   run notebooks 01 to 06 on params/$(PROFILE).yaml into a dated report (PROFILE=name for another)"
	@echo "make test     lint, tests, and the notebooks on the smoke profile"
	@echo "make outputs  run the notebooks on the smoke profile and keep the outputs that make test compares"
	@echo "make lab      open JupyterLab on the notebooks"
	@echo "make lint     check the style; make format mends it"
	@echo "make clean    remove caches; reports and $(VENV) stay"

# The stamp is made last: its presence means that the installation is whole. It is older than pyproject.toml after a
# change there, and then the installation is brought up to date.
$(STAMP): pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	check='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; \
	for name in $${python:-python3.11 python3.12 python3 python}; do \
	  if "$$name" -c "$$check" >/dev/null 2>&1; then found="$$name"; break; fi; \
	  seen="$$seen $$name: $$("$$name" --version 2>&1 | head -n 1 || true);"; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "lumo needs Python 3.11 or 3.12 with venv, got$$seen install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "setting up $(VENV) with $$("$$found" --version); the first time takes a few minutes" && \
	"$$found" -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]" && \
	touch $@

report: $(STAMP)
	@$(BIN)/lumo report --profile $(PROFILE)

$(VENV)/.meta: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(META) && touch $@ || \
	echo "$(META) can't be installed: the test that needs it will be skipped" >&2

test: lint $(VENV)/.meta
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

outputs: $(STAMP)
	@export $(ONE_THREAD); $(BIN)/python tests/refresh_outputs.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
