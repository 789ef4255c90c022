#!/bin/bash
# Sets up an environment in which this checkout is installed; quickstart.sh and run_tests.sh do so
# through this file.
#
#   bash tools/setup_env.sh EXTRAS [--here] [--python PROGRAM] [--cpu] [--stack openmmlab|onedl]
#
# EXTRAS are those of setup.py: `lite`, or `lite,test`. The environment is .venv in the checkout,
# or with --here the one that is active. --python names the Python to make .venv with, --cpu takes
# PyTorch's builds without CUDA, a fraction of the download. --stack chooses whose mmengine and
# mmpretrain are installed: OpenMMLab's own or the maintained forks; by default those that are there,
# else OpenMMLab's. What is there already is kept: a stamp says what it was made from. An
# interrupted installation is finished or repeated.
#
# When sourced, `setup_env` leaves the environment's Python in PYTHON and whatever else it was
# given in REST.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=
REST=()
STACK=
CPU_BUILDS=https://download.pytorch.org/whl/cpu

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -eq 1 ] || printf '%s\n' "${@:2}" >&2
    exit 1
}

setup_env() {
    local extras=$1 here=false program='' cpu=false
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --here) here=true ;;
            --cpu) cpu=true ;;
            --python)
                [ $# -gt 1 ] || fail '--python needs the name or path of a Python'
                program=$2
                shift
                ;;
            --python=*) program=${1#*=} ;;
            --stack)
                [ $# -gt 1 ] || fail '--stack needs openmmlab or onedl'
                STACK=$2
                shift
                ;;
            --stack=*) STACK=${1#*=} ;;
            *) REST+=("$1") ;;
        esac
        shift
    done
    [ -f "$ROOT/setup.py" ] ||
        fail "$ROOT is not a checkout: this script installs one, an installed copy needs no script"
    if $here; then
        use_python "${program:-python}"
    else
        use_venv "$ROOT/.venv" "${program:-python3}"
    fi
    choose_stack
    if is_installed "$extras"; then
        say "Using $(prefix), where everything is installed"
        return
    fi
    install "$extras" "$cpu"
    if ! verify; then
        ! $here || fail "the installation in $(prefix) does not work, see above"
        # What a killed pip has left half done can look finished to the next one.
        say "The environment is damaged, making it again"
        rm -rf "$ROOT/.venv"
        use_venv "$ROOT/.venv" "${program:-python3}"
        install "$extras" "$cpu"
        verify || fail 'the installation does not work, see above'
    fi
    wanted_stamp "$extras" >"$(stamp_file "$extras")"
}

# use_python PROGRAM: takes a Python that is new enough.
use_python() {
    command -v "$1" >/dev/null ||
        fail "there is no $1 here: name a Python of 3.9 or newer with --python PROGRAM"
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        fail "$1 is $("$1" --version 2>&1), and Python 3.9 or newer is needed:" \
            'name one with --python PROGRAM, for example --python python3.11'
    PYTHON=$("$1" -c 'import sys; print(sys.executable)')
}

# use_venv FOLDER PROGRAM: takes the environment in a folder, made by a Python if it isn't there.
use_venv() {
    if ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        use_python "$2"
        say "Making the environment $1 with $("$PYTHON" --version 2>&1)"
        "$PYTHON" -m venv --clear "$1" || {
            rm -rf "$1"
            fail "$PYTHON can't make environments. On Debian and Ubuntu this fixes it:" \
                '  sudo apt-get install python3-venv' \
                'or activate an environment of your own and add --here.'
        }
    fi
    use_python "$1/bin/python"
}

# choose_stack: sets STACK, and refuses one beside the other.
choose_stack() {
    local found=
    if is_there onedl-mmengine || is_there onedl-mmpretrain; then
        found=onedl
    elif is_there mmengine || is_there mmengine-lite || is_there mmpretrain; then
        found=openmmlab
    fi
    STACK=${STACK:-${found:-openmmlab}}
    case $STACK in
        openmmlab | onedl) ;;
        *) fail "--stack is openmmlab or onedl, got $STACK" ;;
    esac
    # Both install the same files.
    [ -z "$found" ] || [ "$found" = "$STACK" ] ||
        fail "$(prefix) has the packages of $found, whose files those of $STACK would overwrite:" \
            'remove them first, or take another environment:' \
            "  $PYTHON -m pip uninstall -y mmengine mmengine-lite mmpretrain onedl-mmengine onedl-mmpretrain"
}

prefix() { "$PYTHON" -c 'import sys; print(sys.prefix)'; }

stamp_file() { echo "$(prefix)/.tl_plugin-$1.stamp"; }

# What an installation is made from: where any of it differs, it is made again.
wanted_stamp() {
    echo "$ROOT" "$1" "$STACK" "$("$PYTHON" --version 2>&1)"
    cat "$ROOT/setup.py" "$ROOT/pyproject.toml" "$ROOT/tl_plugin/_requirements.py"
}

is_installed() { wanted_stamp "$1" | cmp -s - "$(stamp_file "$1")" && verify 2>/dev/null; }

# Whether the package of this checkout is what this Python imports, with all that it needs.
verify() {
    (cd / && "$PYTHON" -W ignore -c '
import sys, tl_plugin, timm, torchvision
from pathlib import Path
found, root = Path(tl_plugin.__file__).resolve().parents[1], Path(sys.argv[1]).resolve()
sys.exit(found != root and f"tl_plugin comes from {found}, not from {root}")' "$ROOT")
}

install() {
    local extras="$1,$STACK" pip=("$PYTHON" -m pip install --disable-pip-version-check) torch=()
    # Torch asks for a setuptools that is not too old and would take the newest, which lacks the
    # pkg_resources of OpenMMLab's mmengine. It also builds the package, without a second
    # environment for that.
    say 'Installing setuptools'
    if [ "$STACK" = openmmlab ]; then
        "${pip[@]}" 'pip>=21.3' 'setuptools>=77.0.3,<81' wheel
    else
        "${pip[@]}" 'pip>=21.3' 'setuptools>=77.0.3' wheel
    fi
    # Both at once: each torchvision fits one torch alone.
    read -ra torch <<<"$(requirements RUNTIME | grep '^torch' | tr '\n' ' ')"
    if ! $2 && ! command -v nvidia-smi >/dev/null && ! is_there torch; then
        say 'No GPU seen: with --cpu you would get PyTorch without CUDA, a fraction of the download'
    fi
    say 'Installing PyTorch (several minutes the first time)'
    # Isolated from pip's settings, whose indexes may have a torchvision for another torch.
    if ! $2 || ! "${pip[@]}" --isolated --retries 1 "${torch[@]}" --index-url "$CPU_BUILDS"; then
        if $2; then say "$CPU_BUILDS gave nothing, see above: installing the usual PyTorch"; fi
        "${pip[@]}" "${torch[@]}"
    fi
    if [[ ",$1," == *,lite,* ]]; then
        # Full mmcv and mmcv-lite install the same files: whoever has the full one keeps it.
        if is_there mmcv || is_there onedl-mmcv; then
            extras=$(without_lite "$extras")
        elif [ "$STACK" = onedl ] || has_lite_engine; then
            # mmcv-lite asks for OpenMMLab's mmengine, whose files would overwrite those of others.
            extras=$(without_lite "$extras")
            say 'Installing mmcv-lite'
            read -ra lite <<<"$(requirements LITE)"
            "${pip[@]}" --no-deps "${lite[@]}"
            "${pip[@]}" addict pyyaml yapf Pillow opencv-python-headless
        fi
    fi
    if has_lite_engine; then
        # The stack's mmengine would overwrite its files. It says less of what it needs.
        extras=$(sed -E 's/,?openmmlab$//' <<<"$extras")
        say 'Installing mmpretrain beside mmengine-lite'
        read -ra others <<<"$(requirements STACKS | grep -v '^mmengine' | tr '\n' ' ')"
        "${pip[@]}" "${others[@]}" opencv-python-headless
    fi
    say "Installing mmpretrain ($STACK) and this package"
    "${pip[@]}" --no-build-isolation -e "$ROOT${extras:+[$extras]}"
}

# OpenMMLab's mmengine without what training alone needs, which also comes as the module mmengine.
has_lite_engine() { is_there mmengine-lite && ! is_there mmengine; }

without_lite() { sed -E 's/(^|,)lite(,|$)/\1/; s/,$//' <<<"$1"; }

# requirements NAME: what tl_plugin/_requirements.py lists under a name, or of a stack, a line each.
requirements() {
    "$PYTHON" -c '
import runpy, sys
found = runpy.run_path(sys.argv[1])[sys.argv[2]]
print(*(found[sys.argv[3]] if isinstance(found, dict) else found), sep="\n")' \
        "$ROOT/tl_plugin/_requirements.py" "$1" "$STACK"
}

is_there() {
    "$PYTHON" -c 'import sys; from importlib.metadata import version; version(sys.argv[1])' "$1" \
        2>/dev/null
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    [ $# -gt 0 ] || fail 'usage: bash tools/setup_env.sh EXTRAS [--here] [--python PROGRAM] [--cpu]' \
        '    [--stack openmmlab|onedl]'
    setup_env "$@"
fi
