# The verbs of this project. People and CI use the same ones; `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
HOST   ?= 127.0.0.1
PORT   ?= 8000
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help
help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps are what was installed from which pins: a changed pin installs again, an unchanged one costs nothing.
$(VENV)/.run: requirements/run.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the server into $(VENV) (once; about a minute)" >&2
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo "installing the test tools into $(VENV) (once; about a minute)" >&2
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# torch comes on its own: with engines.txt it would have to be pinned to one of its many builds.
TORCH ?= torch==2.13.0
$(VENV)/.engines: $(VENV)/.dev requirements/engines.txt requirements/torchserve.txt
	@echo "installing engines, export and what their tests compare with into $(VENV) (once; some minutes)" >&2
	@$(PIP) install $(TORCH)
	@$(PIP) install --require-hashes -r requirements/engines.txt -r requirements/torchserve.txt
	@touch $@

.PHONY: setup engines run test check bench docs format pins
setup: $(VENV)/.dev ## make .venv with the server, the test tools and the benchmarks' needs

engines: $(VENV)/.engines ## add what serves, exports and compares Segment Anything models (large: brings torch)

run: $(VENV)/.run ## start the server: HOST=127.0.0.1 PORT=8000 unless you say otherwise
	@exec $(BIN)/labeling-ground serve --host $(HOST) --port $(PORT)

test: $(VENV)/.dev ## run the tests: STRICT=1 fails where a component is missing instead of skipping, ARGS="-k disk" goes to pytest
	@$(if $(STRICT),LABELING_GROUND_TEST_STRICT=1) $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev ## formatter, linter, types, the import layers, pins without addresses
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@! grep -nE '^(--(extra-)?index-url|--find-links)|@ (file|https?):' requirements/*.txt

bench: $(VENV)/.dev ## time the server and judge the masks, side by side in one run (a few minutes)
	@$(BIN)/python -m bench

docs: $(VENV)/.dev ## write docs/settings.md from the settings' own words
	@$(BIN)/python -m labeling_ground.settings > docs/settings.md

format: $(VENV)/.dev ## put the code in shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

pins: ## compile requirements/*.txt again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  pyproject.toml requirements/build.in -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/dev.in -c requirements/run.txt -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/engines.in -c requirements/run.txt -c requirements/dev.txt -o requirements/engines.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/torchserve.in -c requirements/run.txt -c requirements/dev.txt -c requirements/engines.txt \
	  -o requirements/torchserve.txt
