#!/bin/bash
# Installs everything, as quickstart.sh does, and runs the tests.
#
#   bash tools/run_tests.sh [--here] [--python PROGRAM] [--cpu] [arguments of pytest]
#
# Such as `-m slow` for those that take minutes, or the path of a single test file.
set -euo pipefail

# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

setup_env lite,test "$@"
cd "$ROOT"
# The models are tiny, and some tests run several processes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
say 'Running the tests'
exec "$PYTHON" -m pytest ${REST[@]+"${REST[@]}"}
