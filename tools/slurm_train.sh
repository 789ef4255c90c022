#!/bin/bash
# bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
#
# GPUS (8), GPUS_PER_NODE (8) and CPUS_PER_TASK (5) say how much of the cluster to take, SRUN_ARGS
# what else srun should know.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm_env.sh"
launch "$1" "$2" "$here/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
