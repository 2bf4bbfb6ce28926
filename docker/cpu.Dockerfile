# syntax=docker/dockerfile:1.9
# docker build -f docker/cpu.Dockerfile -t affinity-service:0.1.0-cpu .
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/affinity
WORKDIR /src
# Dependencies by themselves, so that a change of the code leaves their layer.
COPY pyproject.toml constraints.txt ./
COPY docker/dependencies.py docker/dependencies.py
RUN python docker/dependencies.py pyproject.toml language > requirements.txt \
    && /opt/affinity/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu \
       -c constraints.txt "torch==2.13.0+cpu" -r requirements.txt
COPY README.md LICENSE ./
COPY affinity_service affinity_service
COPY ray_jobs ray_jobs
COPY cluster_configs cluster_configs
RUN /opt/affinity/bin/pip install --no-deps .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="affinity-service" org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# curl and wget: probes, ours and KubeRay's. procps: Ray looks after processes.
RUN apt-get update \
    && apt-get install --no-install-recommends -y curl wget procps tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 affinity && useradd --uid 1000 --gid 1000 --create-home affinity \
    && chmod 700 /home/affinity && install -d -o affinity -g affinity /studies /spill
COPY --from=build /opt/affinity /opt/affinity
ENV PATH=/opt/affinity/bin:$PATH OMP_WAIT_POLICY=passive RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/affinity
VOLUME ["/studies"]
EXPOSE 8000 8265 8080
# Where it serves, the service says how it is; where it does something else, the machine is looked over.
HEALTHCHECK --interval=30s --timeout=20s --start-period=90s --retries=3 \
    CMD ["sh", "-c", "curl -sf -m 5 http://127.0.0.1:8000/healthz || affinity doctor --quick"]
ENTRYPOINT ["tini", "--"]
CMD ["affinity", "--help"]
