# fastgw as an image: the frozen program, what it is made of, and nothing else that it needs but a C library and zlib.
#
#     docker build -t fastgw .          (or buildah build --format docker -t fastgw . : HEALTHCHECK is Docker's)
#     docker run --read-only --cap-drop ALL -p 8080:8080 -e VLLM_URL=http://engine:8000 -e GATEWAY_API_KEYS=key1 fastgw
#
# Runs as nobody, on a root that is read-only, without a shell. Settings come from the environment, or a file that is mounted
# and named by FASTGW_CONFIG: the health check reads them too, and does not see flags. What it keeps, if FASTGW_STATE_DIR says
# so, belongs in /var/lib/fastgw. The base may be any that has glibc and zlib, no older than those of the image it is built in.

ARG BUILD_IMAGE=python:3.13-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
RUN command -v gcc > /dev/null || { apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev binutils \
    && rm -rf /var/lib/apt/lists/*; }
WORKDIR /src
COPY . .
RUN python3 -m scripts.binary --folder /tmp/binary --dist /dist \
    && /dist/fastgw-dir/fastgw self-test \
    && mkdir /state

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="fastgw" \
      org.opencontainers.image.description="A streaming gateway in front of LLM inference engines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=build --chown=0:0 /dist/fastgw-dir /opt/fastgw
COPY --from=build --chown=65532:65532 /state /var/lib/fastgw
ENV FASTGW_HOST=0.0.0.0
WORKDIR /var/lib/fastgw
USER 65532:65532
EXPOSE 8080
# SIGTERM drains, as PID 1 too; give it longer than drain_timeout_s (30 s) before it is killed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/opt/fastgw/fastgw", "check", "--live"]
ENTRYPOINT ["/opt/fastgw/fastgw"]
CMD ["serve"]
