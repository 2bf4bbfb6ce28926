#!/usr/bin/env bash
# A Ray head on this machine alone, with a token: `affinity run … --address auto`, `affinity submit … --address
# http://127.0.0.1:8265`. Ends with Ctrl-C. Edit: SPILL to a disk with room.
set -euo pipefail
export RAY_AUTH_MODE=token RAY_BACKEND_LOG_JSON=1 OMP_WAIT_POLICY=passive
SPILL="${SPILL:-/tmp/ray-spill}"
mkdir -p "$SPILL"
# Into ~/.ray/auth_token, where it is looked for.
ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token
ulimit -n 65536 2> /dev/null || ulimit -n "$(ulimit -Hn)"
exec ray start --head --block --node-ip-address=127.0.0.1 --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265 \
  --metrics-export-port=8080 --object-spilling-directory="$SPILL"
