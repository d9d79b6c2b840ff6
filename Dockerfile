# The two images of StreamConsumer, on Debian and its Python. Nothing is compiled, and locks/ pins every Python package
# by hash.
#
#   docker build --target processor -t streamconsumer-processor:0.1.0 .
#   docker build --target operator  -t streamconsumer-operator:0.1.0  .
#
# A CycloneDX SBOM of the Python packages in an image:
#
#   docker build --target sbom --build-arg IMAGE=operator --output dist .
ARG BASE=debian:trixie-slim
# Digest of the base image. A release build passes it, and the image records it in a label.
ARG BASE_DIGEST=unknown
ARG IMAGE=processor

FROM ${BASE} AS python
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*

FROM python AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY locks/build.txt locks/
RUN python3 -m venv /build/tools && /build/tools/bin/pip install --quiet --require-hashes -r locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /build/tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

FROM build AS build-processor
COPY locks/processor.txt locks/
# The image keeps pip, so that an image built FROM this one can install the packages of its handler.
RUN python3 -m venv /opt/streamconsumer \
 && /opt/streamconsumer/bin/pip install --quiet --require-hashes -r locks/processor.txt \
 && /opt/streamconsumer/bin/pip install --quiet --no-deps dist/*.whl \
 && python3 -m compileall -q /opt/streamconsumer

FROM build AS build-operator
COPY locks/operator.txt locks/
RUN python3 -m venv --without-pip /opt/streamconsumer \
 && /build/tools/bin/pip --python /opt/streamconsumer/bin/python install --quiet --require-hashes -r locks/operator.txt \
 && /build/tools/bin/pip --python /opt/streamconsumer/bin/python install --quiet --no-deps dist/*.whl \
 && python3 -m compileall -q /opt/streamconsumer

# The SBOM describes the environment that the image contains, not the lock file.
# hadolint ignore=DL3006
FROM build-${IMAGE} AS build-sbom
ARG IMAGE
WORKDIR /build
COPY locks/release.txt locks/
RUN python3 -m venv /build/release && /build/release/bin/pip install --quiet --require-hashes -r locks/release.txt
RUN mkdir /sbom \
 && /build/release/bin/cyclonedx-py environment --output-reproducible --mc-type application --pyproject pyproject.toml \
    --output-file "/sbom/streamconsumer-${IMAGE}.cdx.json" /opt/streamconsumer/bin/python

FROM scratch AS sbom
COPY --from=build-sbom /sbom /

FROM python AS base
ARG BASE
ARG BASE_DIGEST
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
ENV PATH=/opt/streamconsumer/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1
LABEL org.opencontainers.image.title="StreamConsumer" \
      org.opencontainers.image.description="Python functions as Redis Streams consumers on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
# A numeric user, so that the kubelet can verify that it is not root. Any other user id works too, because the process
# needs no passwd entry and no home directory, and writes only to /tmp.
USER 65532:65532

FROM base AS operator
COPY --from=build-operator /opt/streamconsumer /opt/streamconsumer
EXPOSE 8080
ENTRYPOINT ["streamconsumer"]
CMD ["operator"]

# The default target of `docker build`.
FROM base AS processor
COPY --from=build-processor /opt/streamconsumer /opt/streamconsumer
# Folder for the handler of an image that is built FROM this one.
WORKDIR /app
ENV PYTHONPATH=/app
EXPOSE 8080
ENTRYPOINT ["streamconsumer"]
CMD ["processor"]
