#!/bin/bash
# Sourced by slurm_train.sh and slurm_test.sh: starts the tasks of a run with srun.

PYTHON=${PYTHON:-python}

# launch PARTITION JOB_NAME SCRIPT [arguments of the script]
launch() {
    local srun_args
    read -ra srun_args <<<"${SRUN_ARGS:-}"
    set -x
    exec srun -p "$1" \
        --job-name="$2" \
        --gres="gpu:${GPUS_PER_NODE:-8}" \
        --ntasks="${GPUS:-8}" \
        --ntasks-per-node="${GPUS_PER_NODE:-8}" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        "${srun_args[@]}" \
        "$PYTHON" -u "${@:3}"
}
