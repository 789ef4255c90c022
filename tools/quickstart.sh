#!/bin/bash
# From a fresh clone to a climbed ladder: installs everything, trains the strategies on embedded
# data and reports what each gained.
#
#   bash tools/quickstart.sh [--here] [--python PROGRAM] [--cpu] [--stack openmmlab|onedl] [arguments of tools/ladder.py]
#
# The environment is .venv in the checkout, or with --here the one that is active. --python names
# the Python to make .venv with, --cpu takes PyTorch without CUDA, a fraction of the download,
# --stack onedl the maintained forks of mmengine and mmpretrain.
# It climbs a selection of the rungs, one of each kind: the first result comes within a minute, the
# last within four on two cores that have nothing else to do. The default rungs take
# python tools/ladder.py configs/digits/ladder.py
# A second call reuses what is there: the environment, and every rung that was finished.
set -euo pipefail

# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

case " $* " in
    *' --help '* | *' -h '*)
        sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
        ;;
esac

setup_env lite "$@"
cd "$ROOT"
# One thread: the network is small, and threads that wait for each other on a busy machine make it
# many times slower.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
say 'Climbing the ladder on embedded data'
exec "$PYTHON" -u tools/ladder.py configs/digits/ladder.py --work-dir work_dirs/quickstart \
    --rungs adabn feature_extraction fine_tune joint_training dann self_training interpolation \
    ${REST[@]+"${REST[@]}"}
