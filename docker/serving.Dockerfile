# TorchServe with one archive: `sam_encode` (ROLE=encode) or `sam_decode` (ROLE=decode).
#
#   make build_gpu build_cpu
#
# Python, Java and TorchServe lie below the model, and the model below our code: a changed line makes a layer of about a
# megabyte again. Written for the classic builder and for BuildKit.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# --- what the workers import, pinned by hash --------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS pins
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends binutils > /dev/null \
 && python3 -m venv /opt/python
COPY requirements/run.txt requirements/torchserve.txt requirements/cuda.txt docker/pins_of.py docker/lean.py /requirements/
# `onnxruntime` computes on the processor, `onnxruntime-gpu` on a GPU of NVIDIA's, whose libraries come with it.
ARG ONNXRUNTIME=onnxruntime
RUN cd /requirements \
 && python3 pins_of.py run.txt numpy opencv-python-headless pillow safetensors > run-part.txt \
 && python3 pins_of.py torchserve.txt torchserve pyyaml > serve-part.txt \
 && case "$ONNXRUNTIME" in *-gpu*) pins=cuda.txt;; *) pins=torchserve.txt;; esac \
 && python3 pins_of.py "$pins" "$ONNXRUNTIME" > computes-part.txt \
 && /opt/python/bin/pip install --quiet --require-hashes --no-deps -r run-part.txt -r serve-part.txt \
 && /opt/python/bin/pip install --quiet --require-hashes --no-deps -r computes-part.txt \
 && /opt/python/bin/python -B lean.py && /opt/python/bin/python -m compileall -q /opt/python/lib
COPY docker/torch_for_torchserve.py /tmp/torch.py
RUN site="$(/opt/python/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && cp /tmp/torch.py "$site/torch.py" \
 && echo /opt/labeling-ground > "$site/labeling-ground.pth"

# --- the archive, unpacked once, here: TorchServe would unpack it at each start, into memory --------------------------
FROM ${PYTHON_IMAGE} AS model
ARG ROLE
COPY sam_vit_h_${ROLE}.mar /archives/
RUN python3 -m zipfile -e /archives/sam_vit_h_${ROLE}.mar /home/model-store/sam_vit_h_${ROLE}

# --- the list of parts ------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS sbom
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/sbom.txt /requirements/
RUN python3 -m venv /opt/sbom && /opt/sbom/bin/pip install --quiet --require-hashes -r /requirements/sbom.txt
COPY --from=pins /opt/python /opt/python
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.cdx.json /opt/python/bin/python

# --- the base with Java, without what installs and what is read -------------------------------------------------------
FROM ${PYTHON_IMAGE} AS bare
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless > /dev/null
COPY docker/bare.sh /usr/local/bin/bare
RUN sh -e /usr/local/bin/bare && rm /usr/local/bin/bare

# --- the server -------------------------------------------------------------------------------------------------------
FROM scratch AS serving
COPY --from=bare / /
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp labeling && chmod 1777 /tmp
COPY --from=sbom /sbom.cdx.json /usr/share/labeling-ground/
COPY --from=pins /opt/python /opt/python
COPY --from=model /home/model-store /home/model-store
COPY docker/healthy.sh /usr/local/bin/healthy
COPY docker/torchserve.sh /usr/local/bin/serve
COPY docker/log4j2.xml /etc/torchserve/
ARG ROLE
COPY segment_anything/config-${ROLE}.properties /etc/torchserve/config.properties
COPY src/labeling_ground /opt/labeling-ground/labeling_ground
ENV PATH=/opt/python/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TS_LOAD_MODELS=sam_vit_h_${ROLE}
USER labeling
WORKDIR /tmp
EXPOSE 8080 8081 8082 7080 7081 7082
CMD ["serve"]
