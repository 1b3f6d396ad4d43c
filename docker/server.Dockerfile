# The images `proxy` and `engine`: the same server, with and without what computes a Segment Anything model.
#
#   docker build -f docker/server.Dockerfile --target proxy  -t labeling-ground/proxy  .
#   docker build -f docker/server.Dockerfile --target engine -t labeling-ground/engine .
#
# What changes rarely lies below what changes often: the pins (minutes, hundreds of megabytes) are layers of their own,
# and a changed line of ours makes one layer of about a megabyte again. Written for the classic builder and for BuildKit.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# --- every dependency, pinned by hash ---------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS pins
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/python
COPY requirements/run.txt /requirements/
RUN /opt/python/bin/pip install --quiet --require-hashes -r /requirements/run.txt
# Our code lies beside the dependencies, in a folder of its own that they know.
RUN echo /opt/labeling-ground > "$(/opt/python/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/labeling-ground.pth"

# --- our wheel, built once and unpacked -------------------------------------------------------------------------------
FROM pins AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/python/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /build/out . \
 && /opt/python/bin/pip install --quiet --no-deps --no-index --target /opt/labeling-ground /build/out/*.whl

# --- the dependencies as they are shipped: without what only builds and installs --------------------------------------
FROM pins AS lean
COPY docker/lean.sh /usr/local/bin/lean
RUN lean

# --- who runs it, and where it may write ------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS runtime
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent labeling \
 && install -d -o labeling -g labeling /var/cache/labeling-ground /var/lib/labeling-ground/models
COPY docker/healthy.sh /usr/local/bin/healthy
ENV PATH=/opt/labeling-ground/bin:/opt/python/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LABELING_GROUND_HOST=0.0.0.0 \
    LABELING_GROUND_CACHE_DIR=/var/cache/labeling-ground \
    LABELING_GROUND_MODELS_DIR=/var/lib/labeling-ground/models
USER labeling
WORKDIR /tmp

FROM runtime AS proxy
COPY --from=lean /opt/python /opt/python
COPY --from=wheel /opt/labeling-ground /opt/labeling-ground
EXPOSE 8000
VOLUME ["/var/cache/labeling-ground"]
CMD ["labeling-ground", "serve"]

# --- what computes ----------------------------------------------------------------------------------------------------
# `onnxruntime`, `openvino`, or both: with both, the faster one is found by trial at start.
FROM pins AS engine-pins
COPY docker/lean.sh /usr/local/bin/lean
ARG ENGINE_LIBRARIES=onnxruntime
COPY requirements/engines.txt /requirements/
COPY docker/pins_of.py /requirements/
RUN python3 /requirements/pins_of.py /requirements/engines.txt ${ENGINE_LIBRARIES} > /requirements/chosen.txt \
 && /opt/python/bin/pip install --quiet --require-hashes --no-deps -r /requirements/chosen.txt \
 && lean

FROM runtime AS engine
COPY --from=engine-pins /opt/python /opt/python
COPY --from=wheel /opt/labeling-ground /opt/labeling-ground
EXPOSE 8080
CMD ["labeling-ground", "engine", "--help"]
