# syntax=docker/dockerfile:1.9
# docker build -f docker/gpu.Dockerfile -t affinity-service:0.1.0-gpu .
# The machine's driver must be new enough for the CUDA of this base; `affinity doctor` says when it is not.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
    && apt-get install --no-install-recommends -y python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/affinity
WORKDIR /src
# Dependencies by themselves, so that a change of the code leaves their layer.
COPY pyproject.toml constraints.txt ./
COPY docker/dependencies.py docker/dependencies.py
RUN python3 docker/dependencies.py pyproject.toml language > requirements.txt \
    && /opt/affinity/bin/pip install -c constraints.txt "torch==2.13.0" -r requirements.txt
COPY README.md LICENSE ./
COPY affinity_service affinity_service
COPY ray_jobs ray_jobs
COPY cluster_configs cluster_configs
RUN /opt/affinity/bin/pip install --no-deps .

# The compilers stay: DeepSpeed builds its optimizers for offloading (zero2_offload, zero3_offload) on first use.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
LABEL org.opencontainers.image.title="affinity-service" org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base has a user of number 1000 already, which becomes ours.
RUN apt-get update \
    && apt-get install --no-install-recommends -y python3 python3-dev curl wget procps tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupmod --new-name affinity ubuntu \
    && usermod --login affinity --home /home/affinity --move-home ubuntu \
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
