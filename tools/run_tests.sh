#!/bin/bash
# Installs everything, as quickstart.sh does, and runs the tests.
#
#   bash tools/run_tests.sh [--here] [--python PROGRAM] [--cpu] [--stack openmmlab|onedl] [arguments of pytest]
#
# Such as `-m slow` for those that take minutes, or the path of a single test file. On several cores
# test files run side by side; `-n 0` runs them one after the other.
set -euo pipefail

# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

setup_env lite,test "$@"
cd "$ROOT"
# The models are tiny, and some tests run several processes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A file stays in one process, for its tests share what they train. More than four processes would
# wait for the longest file.
parallel=(-n auto --maxprocesses 4 --dist loadfile)
for argument in ${REST[@]+"${REST[@]}"}; do
    case $argument in
        -n* | --numprocesses* | --pdb | --trace) parallel=() ;;
    esac
done
say 'Running the tests'
exec "$PYTHON" -m pytest ${parallel[@]+"${parallel[@]}"} ${REST[@]+"${REST[@]}"}
