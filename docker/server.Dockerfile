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
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends binutils > /dev/null \
 && python3 -m venv /opt/python
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
 && /opt/python/bin/pip install --quiet --no-deps --no-index --no-compile --target /opt/labeling-ground /build/out/*.whl

# --- the dependencies as they are shipped: without what nothing needs at run time -------------------------------------
# networkx, imageio and tifffile are what scikit-image wants for parts of it that are not used here, pygments is rich's for
# showing code. The last line fails where something is missing after all.
FROM pins AS lean
COPY docker/lean.py /docker/
RUN /opt/python/bin/python -B /docker/lean.py networkx imageio tifffile pygments
COPY docker/prove.py /docker/
COPY --from=wheel /opt/labeling-ground /opt/labeling-ground
RUN /opt/python/bin/python -B /docker/prove.py server --trim && /opt/python/bin/python /docker/prove.py server

# --- the list of parts: every Python package with its version and licence, as CycloneDX -------------------------------
FROM ${PYTHON_IMAGE} AS sbom
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/sbom.txt /requirements/
RUN python3 -m venv /opt/sbom && /opt/sbom/bin/pip install --quiet --require-hashes -r /requirements/sbom.txt

FROM sbom AS proxy-sbom
COPY --from=lean /opt/python /opt/python
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.cdx.json /opt/python/bin/python

# --- the base, without what builds and what is read -------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS bare
COPY docker/bare.sh /usr/local/bin/bare
RUN sh -e /usr/local/bin/bare && rm /usr/local/bin/bare

# --- who runs it, and where it may write ------------------------------------------------------------------------------
# From scratch, so that no layer below still holds what was taken out.
FROM scratch AS runtime
COPY --from=bare / /
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent labeling \
 && install -d -o labeling -g labeling /var/cache/labeling-ground /var/lib/labeling-ground/models \
 && chmod 1777 /tmp
COPY docker/healthy.sh /usr/local/bin/healthy
ENV PATH=/opt/labeling-ground/bin:/opt/python/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LABELING_GROUND_HOST=0.0.0.0 \
    LABELING_GROUND_CACHE_DIR=/var/cache/labeling-ground \
    LABELING_GROUND_MODELS_DIR=/var/lib/labeling-ground/models
USER labeling
WORKDIR /tmp

FROM runtime AS proxy
COPY --from=lean /opt/python /opt/python
COPY --from=lean /opt/labeling-ground /opt/labeling-ground
COPY --from=proxy-sbom /sbom.cdx.json /usr/share/labeling-ground/
EXPOSE 8000
VOLUME ["/var/cache/labeling-ground"]
CMD ["labeling-ground", "serve"]

# --- what computes ----------------------------------------------------------------------------------------------------
# `onnxruntime`, `openvino`, or both: with both, the faster one is found by trial at start. `onnxruntime-gpu` is ONNX
# Runtime with the libraries of CUDA. What computes without weights (scipy, scikit-image) is the server's alone.
FROM pins AS engine-pins
ARG ENGINE_LIBRARIES=onnxruntime
COPY requirements/engines.txt requirements/cuda.txt docker/pins_of.py docker/lean.py /requirements/
RUN case "${ENGINE_LIBRARIES}" in *-gpu*) pins=cuda.txt;; *) pins=engines.txt;; esac \
 && python3 /requirements/pins_of.py "/requirements/$pins" ${ENGINE_LIBRARIES} > /requirements/chosen.txt \
 && /opt/python/bin/pip install --quiet --require-hashes --no-deps -r /requirements/chosen.txt \
 && /opt/python/bin/python -B /requirements/lean.py networkx imageio tifffile pygments scikit-image scipy lazy-loader
COPY docker/prove.py /requirements/
COPY --from=wheel /opt/labeling-ground /opt/labeling-ground
RUN /opt/python/bin/python /requirements/prove.py engine

FROM sbom AS engine-sbom
COPY --from=engine-pins /opt/python /opt/python
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.cdx.json /opt/python/bin/python

FROM runtime AS engine
COPY --from=engine-pins /opt/python /opt/python
COPY --from=engine-pins /opt/labeling-ground /opt/labeling-ground
COPY --from=engine-sbom /sbom.cdx.json /usr/share/labeling-ground/
EXPOSE 8080
CMD ["labeling-ground", "engine", "--help"]
