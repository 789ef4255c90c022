#!/bin/bash
# bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
#
# GPUS (8), GPUS_PER_NODE (8) and CPUS_PER_TASK (5) say how much of the cluster to take, SRUN_ARGS
# what else srun should know.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm_env.sh"
launch "$1" "$2" "$here/test.py" "$3" "$4" --launcher slurm "${@:5}"
