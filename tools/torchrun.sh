#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh have in common: run a tool of this folder under torchrun.
#   tools/torchrun.sh GPUS TOOL [arguments]
set -euo pipefail

gpus=$1
tool=$2
shift 2

here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="${here%/*}${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    "$here/$tool" "$@" --launcher pytorch
