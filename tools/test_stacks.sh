#!/bin/bash
# Runs the tests on both stacks, with the oldest and the newest versions that install here.
#
#   bash tools/test_stacks.sh [NAME ...] [--again] [--subset] [--keep]
#   bash tools/test_stacks.sh --markdown
#
# Each environment is newly made in work_dirs/stacks, as run_tests.sh makes it. The default one of
# either stack runs the whole suite, unless --subset is given, the others what `-m stack` selects.
# What was found is written to tests/stacks.json after each environment, and into README.md at the
# end; an environment that stands there is left out by the next call, unless --again is given or its
# NAME. One environment takes several GB: each is removed when its tests have run, unless --keep is
# given. --markdown prints the table alone.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" tests/stacks.py "$@"
