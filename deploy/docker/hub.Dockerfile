# The hub with its broker; see docs/how-to/run-in-containers.md. From the root of a checkout:
#   docker build -f deploy/docker/hub.Dockerfile -t edgeloop-hub .
FROM python:3.11-slim-bookworm AS build
# EXTRAS=hub,postgres,grpc,train brings torch: for a hub that retrains
ARG EXTRAS="hub,postgres,grpc"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY fleet fleet
COPY edge_agent edge_agent
COPY cloud_hub cloud_hub
COPY model_compiler model_compiler
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
 && python -m venv /opt/edgeloop \
 && /opt/edgeloop/bin/pip install --no-cache-dir -c constraints/dev.txt "$(echo /dist/edgeloop-*.whl)[$EXTRAS]"

FROM python:3.11-slim-bookworm
# The hub starts Mosquitto itself, so that a device that is revoked is cut off at once.
# Mosquitto's version is not pinned: security updates shall come in.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/edgeloop /opt/edgeloop
# A new volume takes owner and mode of the folder here.
RUN groupadd --gid 10001 cloud-hub \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/cloud-hub --shell /usr/sbin/nologin cloud-hub \
 && install -d -o 10001 -g 10001 -m 750 /var/lib/cloud-hub
ENV PATH=/opt/edgeloop/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
VOLUME /var/lib/cloud-hub
EXPOSE 8080 8883
USER 10001:10001
STOPSIGNAL SIGTERM
# Alive, not ready: a restart mends no database.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", "import ssl, urllib.request as web; web.urlopen('https://localhost:8080/healthz', timeout=8, context=ssl.create_default_context(cafile='/var/lib/cloud-hub/keys/ca.pem'))"]
ENTRYPOINT ["cloud-hub"]
CMD ["serve", "/var/lib/cloud-hub"]
