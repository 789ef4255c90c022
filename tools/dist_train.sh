#!/bin/bash
# bash tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
#
# One process a GPU. On a machine without GPUs the processes run on its CPUs, joined by gloo.
# MAX_RESTARTS=3 with --resume: when a process dies, all are started again, up to this many times, and
# go on from the newest whole checkpoint.
# Several machines: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/dist_env.sh"
launch "$2" "$here/train.py" "$1" --launcher pytorch "${@:3}"
