#!/usr/bin/env bash
# Test with several processes on this machine, or on several.
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]
# Environment: NNODES machines (1), NODE_RANK of this one (0), MASTER_ADDR the first one's address
# (127.0.0.1), PORT a free port there (29500), PYTHON the interpreter (python).
# Without GPUs, GPUS is the number of processes on the CPU.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,6s/^# //p' "$0" >&2
    exit 2
fi
exec bash "$(dirname "$0")/torchrun.sh" "$3" test.py "$1" "$2" "${@:4}"
