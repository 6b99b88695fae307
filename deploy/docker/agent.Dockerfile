# The edge agent, for linux/amd64 and linux/arm64; see docs/how-to/run-in-containers.md. From the root of a checkout:
#   docker buildx build --platform linux/amd64,linux/arm64 -f deploy/docker/agent.Dockerfile -t edgeloop-agent .
FROM python:3.11-slim-bookworm AS build
# Further extras, such as EXTRAS=[onnx,grpc]
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY fleet fleet
COPY edge_agent edge_agent
COPY cloud_hub cloud_hub
COPY model_compiler model_compiler
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
 && python -m venv /opt/edgeloop \
 && /opt/edgeloop/bin/pip install --no-cache-dir -c constraints/dev.txt "$(echo /dist/edgeloop-*.whl)$EXTRAS"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/edgeloop /opt/edgeloop
# A new volume takes owner and mode of the folder here. The set-group-ID bit shares it with applications.
RUN groupadd --gid 10001 edgeloop \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/edge-agent --shell /usr/sbin/nologin edge-agent \
 && install -d -o 10001 -g 10001 -m 2750 /var/lib/edge-agent
ENV PATH=/opt/edgeloop/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
VOLUME /var/lib/edge-agent
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=15s --start-period=60s CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8200/v2/health/live', timeout=8)"]
ENTRYPOINT ["edge-agent"]
CMD ["run", "--dir", "/var/lib/edge-agent", "--uds", "/var/lib/edge-agent/api.sock", "--port", "8200"]
