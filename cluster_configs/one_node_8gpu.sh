#!/usr/bin/env bash
# One machine with eight GPUs, for users on other machines: jobs by `affinity submit … --address http://HOST:8265`, with
# the token that `ray get-auth-token` prints here. Edit: BIND to the address that they reach, SPILL to a fast disk,
# STORE to about a third of the memory (/dev/shm must hold it).
set -euo pipefail
export RAY_AUTH_MODE=token RAY_BACKEND_LOG_JSON=1 OMP_WAIT_POLICY=passive
BIND="${BIND:-127.0.0.1}"
SPILL="${SPILL:-/mnt/nvme/ray-spill}"
STORE="${STORE:-200000000000}"
mkdir -p "$SPILL"
ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token
ulimit -n 65536
exec ray start --head --block --num-gpus=8 --port=6379 --dashboard-host="$BIND" --dashboard-port=8265 \
  --metrics-export-port=8080 --object-store-memory="$STORE" --object-spilling-directory="$SPILL"
