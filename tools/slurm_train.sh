#!/usr/bin/env bash
# Train under SLURM; wait until it ends.
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [flags of tools/train.py]
# Environment: GPUS in all (8), GPUS_PER_NODE (8, at most GPUS), CPUS_PER_TASK (5), SRUN_ARGS more
# flags of srun such as --time=8:00:00, PYTHON the interpreter (python).
# Two minutes before the time is up, SLURM sends SIGUSR1: training saves and ends with status 75.
# Then the same command with --resume goes on.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
if [ "$gpus_per_node" -gt "$gpus" ]; then
    gpus_per_node=$gpus
fi

root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# One process per GPU; one that fails ends the others.
# shellcheck disable=SC2086  SRUN_ARGS holds several words
exec srun --partition="$partition" \
    --job-name="$job_name" \
    --gres=gpu:"$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    --signal=USR1@120 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@"
