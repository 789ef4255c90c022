#!/bin/bash
# Everything that only a GPU can show, in one command: the tests marked `gpu`, then what the package
# costs there, in ratios. Takes under six minutes and writes tools/benchmarks/results/gpu.json, part
# by part.
#
#   bash tools/benchmarks/gpu_check.sh [--dry-run] [--out FILE] [--minutes M] [flags of setup_env.sh]
#   bash tools/benchmarks/gpu_check.sh --collect FOLDER [--for-python 3.12] [--leave-out NAME ...]
#   bash tools/benchmarks/gpu_check.sh --wheels FOLDER [...]
#
# --dry-run does the same on a CPU, with small networks and few steps: it shows that the check runs.
# For a machine without a network that has torch, torchvision and timm: --collect downloads the
# wheels of everything else, here, and --wheels installs them there, over the Python that has torch.
set -euo pipefail

# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../setup_env.sh"

install_wheels() {  # FOLDER
    local folder=$1 environment=${TMPDIR:-/tmp}/tl_plugin-gpu-check
    [ -d "$folder" ] || fail "--wheels needs a folder, which --collect fills; there is no $folder"
    PYTHON=$(command -v python3 || command -v python) || fail 'there is no Python here'
    "$PYTHON" -c 'import torch, timm' || fail "$PYTHON has no torch or no timm"
    "$PYTHON" -m venv --system-site-packages "$environment" ||
        fail "$PYTHON can't make environments (python3-venv)"
    PYTHON=$environment/bin/python
    local pip=("$PYTHON" -m pip install --quiet --no-index --find-links "$folder")
    "${pip[@]}" 'setuptools<81' wheel
    "${pip[@]}" --no-build-isolation -e "${ROOT}[openmmlab,lite,test]"
}

main() {
    local wheels='' own=() others=()
    while [ $# -gt 0 ]; do
        case $1 in
            --wheels)
                [ $# -gt 1 ] || fail '--wheels needs a folder'
                wheels=$2
                shift
                ;;
            --dry-run) own+=("$1") ;;
            --out | --minutes | --collect | --for-python)
                [ $# -gt 1 ] || fail "$1 needs a value"
                own+=("$1" "$2")
                shift
                ;;
            --leave-out)
                own+=("$@")
                break
                ;;
            *) others+=("$1") ;;
        esac
        shift
    done
    if [ -n "$wheels" ]; then
        install_wheels "$wheels"
    else
        setup_env lite,test ${others[@]+"${others[@]}"}
        [ ${#REST[@]} -eq 0 ] || fail "unknown arguments: ${REST[*]}"
    fi
    cd "$ROOT"
    exec "$PYTHON" -W ignore tools/benchmarks/gpu_check.py ${own[@]+"${own[@]}"}
}

main "$@"
