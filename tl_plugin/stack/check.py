"""Checks what the package stands on and repairs it, narrowly, when ``tl_plugin`` is imported.

A stack that is too old or incomplete ends in one message that names every culprit and the command
that fixes it. What can be repaired from here is: checkpoints of mmengine load under torch's safe
default, and ``_base_ = 'tl_plugin::strategies/dann.py'`` works in any config.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from importlib import metadata

from tl_plugin._requirements import MMCV_RANGE, RUNTIME

_UNSAFE_SWITCH = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


def repair_stack() -> None:
    """Checks the stack, then repairs what can be repaired. Calling it again changes nothing.

    Raises:
        ImportError: If something is missing, too old or too new; names all of it and the cure.
    """
    check_stack()
    allow_mmengine_checkpoints()
    register_config_scope()


def check_stack() -> None:
    """Compares what is installed with what ``tl_plugin`` needs.

    Raises:
        ImportError: If something is missing, too old or too new; names all of it and the cure.
    """
    if _version('packaging') is None:
        raise _stack_error([('packaging', 'is not installed')])
    problems = [problem for line in RUNTIME for problem in _check_requirement(line)]
    problems += _check_mmcv() + _check_torchvision() + _check_opencv()
    if problems:
        raise _stack_error(problems)


def allow_mmengine_checkpoints() -> None:
    """Make mmengine read local checkpoints under torch's safe default, its own log history too.

    Resuming, ``load_from``, ``init_cfg``, publishing and inference read through mmengine's
    ``CheckpointLoader``. Only its loader of local files is exchanged: what else calls
    ``torch.load`` in this process is as it was.
    """
    from mmengine.runner import CheckpointLoader

    from .safe_loading import load_from_local

    CheckpointLoader.register_scheme('', load_from_local, force=True)
    if os.environ.get(_UNSAFE_SWITCH, '').lower() in ('1', 'y', 'yes', 'true'):
        warnings.warn(
            f'{_UNSAFE_SWITCH} is set: any checkpoint you load can run code on this machine. '
            "tl_plugin doesn't need it: unset it.",
            stacklevel=2,
        )


def register_config_scope() -> None:
    """Makes ``_base_ = 'tl_plugin::...'`` work in configs, as ``mmpretrain::...`` does."""
    from mmengine.config.utils import MODULE2PACKAGE

    # mmengine looks for a distribution of this name, finds none (ours is mmpretrain-tl-plugin)
    # and then asks Python where the module lies, which is right for an editable install too.
    MODULE2PACKAGE.setdefault('tl_plugin', 'tl_plugin')
    # It does so through pkg_resources, which warns three times in every run. The requirement of
    # a setuptools that has it is the cure, so nobody needs to be told.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated', category=UserWarning)


def _stack_error(problems: list[tuple[str, str]]) -> ImportError:
    listed = '\n'.join(f'  {requirement}: {what}' for requirement, what in problems)
    wanted = ' '.join(f'"{requirement}"' for requirement in dict(problems))
    return ImportError(
        f'tl_plugin cannot start with what is installed here:\n{listed}\n'
        f'This mends it:\n  {sys.executable} -m pip install {wanted}'
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _check_requirement(line: str) -> list[tuple[str, str]]:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.name == 'setuptools':
        # It is there for `pkg_resources` alone, whichever release that comes in.
        if importlib.util.find_spec('pkg_resources') is None:
            return [(line, 'mmengine needs its module pkg_resources, which is not there')]
        return []
    found = _version(requirement.name)
    if found is None:
        return [(line, 'is not installed')]
    if not requirement.specifier.contains(found, prereleases=True):
        return [(line, f'found {found}')]
    return []


def _check_mmcv() -> list[tuple[str, str]]:
    """mmcv comes as two distributions with the same files; either will do."""
    from packaging.specifiers import SpecifierSet

    found = _version('mmcv') or _version('mmcv-lite')
    if found is None:
        # The light one needs no compiler and serves everything that classification uses.
        return [(f'mmcv-lite{MMCV_RANGE}', 'neither mmcv nor mmcv-lite is installed')]
    if not SpecifierSet(MMCV_RANGE).contains(found, prereleases=True):
        name = 'mmcv' if _version('mmcv') else 'mmcv-lite'
        return [(f'{name}{MMCV_RANGE}', f'found {found}')]
    return []


def _check_torchvision() -> list[tuple[str, str]]:
    """torchvision is built for certain torches; beside another it fails in the depths."""
    from packaging.requirements import Requirement

    torch_version, own = _version('torch'), _version('torchvision')
    if torch_version is None or own is None:
        return []
    for requirement in map(Requirement, metadata.requires('torchvision') or []):
        unfit = not requirement.specifier.contains(torch_version, prereleases=True)
        if requirement.name == 'torch' and requirement.marker is None and unfit:
            what = f'torchvision {own} needs {requirement}, found torch {torch_version}'
            return [('torch', what), ('torchvision', 'has to fit the torch')]
    return []


def _check_opencv() -> list[tuple[str, str]]:
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        # On a machine without a screen it is usually libGL that the plain build misses.
        return [('opencv-python-headless', f'OpenCV cannot be imported: {error}')]
    return []
