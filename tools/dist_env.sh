#!/bin/bash
# Sourced by dist_train.sh and dist_test.sh: starts the processes of a run with torchrun.

PYTHON=${PYTHON:-python}

# launch PROCESSES SCRIPT [arguments of the script]
launch() {
    local processes=$1 port=${PORT:-}
    if [ -z "$port" ] && [ "${NNODES:-1}" = 1 ]; then
        # Two runs on one machine must not meet; several machines have to agree on a port.
        port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    fi
    # A process that spreads over all cores would only be in the way of the others.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    local meet=(--node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${port:-29500}")
    if [ "${NNODES:-1}" = 1 ] || [ "${MAX_RESTARTS:-0}" != 0 ]; then
        # The plain way to meet leaves the addresses of dead processes lying about, which those that
        # are started again would call.
        meet=(--rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${port:-29500}" --rdzv_id="${RUN_ID:-tl_plugin}")
    fi
    exec "$PYTHON" -m torch.distributed.run \
        --nnodes="${NNODES:-1}" \
        "${meet[@]}" \
        --nproc_per_node="$processes" \
        --max_restarts="${MAX_RESTARTS:-0}" \
        "${@:2}"
}
