"""Check what the package is built on, and repair it narrowly, when ``tl_plugin`` is imported.

A stack that is too old or incomplete raises one error that names every problem and the command
that fixes it. mmengine, mmpretrain and mmcv are looked up as modules: they come as OpenMMLab's
distributions or as the forks of them that are maintained today. What is repaired here: checkpoints
of mmengine load under torch's safe default, ``_base_ = 'tl_plugin::strategies/dann.py'`` works in
any config, with any setuptools, mmcv shifts hues under numpy 2, and ``sync_bn`` keeps the
activations of timm's norms.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from tl_plugin._requirements import MODULES, RUNTIME, STACKS

_UNSAFE_SWITCH = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
#: Module -> the distributions that bring it.
_DISTRIBUTIONS = {
    'mmengine': ('mmengine', 'onedl-mmengine', 'mmengine-lite'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'mmcv': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
}


def repair_stack() -> None:
    """Check the stack, then repair what can be repaired. Calling it again changes nothing.

    Raises:
        ImportError: If something is missing, too old or too new; names all of it and the fix.
    """
    check_stack()
    allow_mmengine_checkpoints()
    serve_installed_paths()
    register_config_scope()
    repair_hue()
    keep_activations_of_norms()


def check_stack() -> None:
    """Compare what is installed with what ``tl_plugin`` needs.

    Raises:
        ImportError: If something is missing, too old or too new; names all of it and the fix.
    """
    if _version('packaging') is None:
        raise _stack_error([('packaging', 'is not installed')])
    problems = [problem for line in RUNTIME for problem in _check_requirement(line)]
    problems += [problem for module in MODULES for problem in _check_module(module)]
    problems += _check_torchvision() + _check_opencv()
    if problems:
        raise _stack_error(problems)
    _warn_of_risks()


def allow_mmengine_checkpoints() -> None:
    """Make mmengine read checkpoints under torch's safe default, its own log history too.

    Resuming, ``load_from``, ``init_cfg``, publishing and inference read through mmengine's
    ``CheckpointLoader``. Only its loaders of local and downloaded files are replaced; other calls
    of ``torch.load`` in this process are not affected. Some releases of mmengine read a file again
    without the protection where the safe way fails: here they don't.
    """
    from mmengine.runner import CheckpointLoader

    from .safe_loading import load_from_local, load_from_url

    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_url, force=True)
    if os.environ.get(_UNSAFE_SWITCH, '').lower() in ('1', 'y', 'yes', 'true'):
        warnings.warn(
            f'{_UNSAFE_SWITCH} is set: any checkpoint you load can run code on this machine. '
            "tl_plugin doesn't need it: unset it.",
            stacklevel=2,
        )


def serve_installed_paths() -> None:
    """Give mmengine the folders of packages where it needs a missing ``pkg_resources``.

    mmengine up to 0.10.7 asks ``pkg_resources`` for them, which setuptools 82 no longer has.
    """
    import mmengine.utils.package_utils as package_utils

    source = Path(package_utils.__file__).read_text(encoding='utf-8')
    if 'pkg_resources' not in source or _spec('pkg_resources') is not None:
        return
    from mmengine import config, utils

    for module in (package_utils, utils, config.config):
        module.get_installed_path = _installed_path
        module.is_installed = _is_installed


def _installed_path(package: str) -> str:
    """Return the folder of a package, given its module's name or its distribution's."""
    names = (package, *_modules_of(package))
    origins = [spec.origin for name in names if (spec := _spec(name)) is not None and spec.origin]
    if not origins:
        raise ImportError(f'{package} is not installed, or is a namespace package')
    return os.path.dirname(origins[0])


def _is_installed(package: str) -> bool:
    return any(_spec(name) is not None for name in (package, *_modules_of(package)))


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _modules_of(distribution: str) -> list[str]:
    try:
        return (metadata.distribution(distribution).read_text('top_level.txt') or '').split()
    except metadata.PackageNotFoundError:
        return []


def register_config_scope() -> None:
    """Make ``_base_ = 'tl_plugin::...'`` work in configs, as ``mmpretrain::...`` does."""
    from mmengine.config.utils import MODULE2PACKAGE

    # mmengine looks for a distribution of this name, finds none (ours is mmpretrain-tl-plugin)
    # and then asks Python where the module lies, which is right for an editable install too.
    MODULE2PACKAGE.setdefault('tl_plugin', 'tl_plugin')
    _build_bases_in_mmpretrains_scope()
    # It does so through pkg_resources, which warns three times in every run; the stack's
    # requirement on setuptools already keeps a release that has it.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated', category=UserWarning)


def _build_bases_in_mmpretrains_scope() -> None:
    """Say of each dict in a ``tl_plugin::`` base that its types are mmpretrain's.

    mmengine would have them looked up in a scope that is called as the package is. Its classes are
    registered with mmpretrain, and there is no such scope: nothing could be built.
    """
    from mmengine.config import Config

    original = Config._get_cfg_path
    if original.__module__ == __name__:
        return

    def _get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        return path, 'mmpretrain' if scope == 'tl_plugin' else scope

    Config._get_cfg_path = staticmethod(_get_cfg_path)


def repair_hue() -> None:
    """Let mmcv shift hues down under numpy 2, which refuses negative numbers as unsigned bytes.

    mmpretrain's ``ColorJitter`` calls it; about half of all draws ended in an ``OverflowError``.
    """
    import mmcv
    import numpy as np
    from mmcv.image import photometric

    original = photometric.adjust_hue
    try:
        original(np.zeros((1, 1, 3), np.uint8), -0.1, backend='cv2')
        return
    except OverflowError:
        pass

    def adjust_hue(img: Any, hue_factor: float, backend: str | None = None) -> Any:
        return original(img, _Hue(hue_factor), backend)

    adjust_hue.__doc__ = original.__doc__
    for module in (mmcv, mmcv.image, photometric):
        module.adjust_hue = adjust_hue


class _Hue(float):
    """A shift of the hue that is scaled to a byte modulo 256, as numpy 1 did."""

    def __mul__(self, scale: float) -> int:
        return int(float(self) * scale) % 256


def keep_activations_of_norms() -> None:
    """Let ``sync_bn='torch'`` convert timm's ``BatchNormAct2d`` as timm does, with its activation.

    mmengine puts a ``SyncBatchNorm`` in its place, which has none: EfficientNet, RegNet, MobileNet
    and many others then train without most of their activations, on several GPUs alone.
    """
    from mmengine import model

    plain = model.convert_sync_batchnorm
    if hasattr(plain, 'plain'):
        return

    def convert_sync_batchnorm(module: Any, implementation: str = 'torch') -> Any:
        from timm.layers import BatchNormAct2d
        from timm.layers import convert_sync_batchnorm as convert

        kinds = {n: type(layer) for n, layer in module.named_modules() if _does_more(layer)}
        if not kinds:
            return plain(module, implementation)
        for name, kind in kinds.items():
            if implementation != 'torch' or not issubclass(kind, BatchNormAct2d):
                cure = 'leave sync_bn out, so that each process normalises by its own batch'
                if issubclass(kind, BatchNormAct2d):
                    cure = "sync_bn='torch' keeps its activation"
                raise ValueError(
                    f'sync_bn={implementation!r} puts a SyncBatchNorm in the place of {name}, a '
                    f'{kind.__name__}, which does more than normalise: {cure}'
                )
        return convert(module)

    convert_sync_batchnorm.plain = plain
    for name in ('mmengine.model', 'mmengine.runner.runner', 'mmengine._strategy.distributed'):
        if name in sys.modules:
            sys.modules[name].convert_sync_batchnorm = convert_sync_batchnorm


def _does_more(layer: Any) -> bool:
    """Return whether a layer is a batch norm with a forward that isn't torch's."""
    from torch.nn.modules import batchnorm

    norm = isinstance(layer, batchnorm._BatchNorm)
    return norm and type(layer).forward.__module__ != batchnorm.__name__


def _stack_error(problems: list[tuple[str, str]]) -> ImportError:
    listed = '\n'.join(f'  {requirement}: {what}' for requirement, what in problems)
    wanted = ' '.join(f'"{requirement}"' for requirement in dict(problems))
    # mmcv-lite asks for mmengine by its old name and would lay it over the fork's files.
    other = _version('onedl-mmengine') or (_version('mmengine-lite') and not _version('mmengine'))
    alone = '--no-deps ' if other and 'mmcv-lite' in wanted else ''
    return ImportError(
        f'tl_plugin cannot start with what is installed here:\n{listed}\n'
        f'This fixes it:\n  {sys.executable} -m pip install {alone}{wanted}'
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _check_requirement(line: str) -> list[tuple[str, str]]:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    found = _version(requirement.name)
    if found is None:
        return [(line, 'is not installed')]
    if not requirement.specifier.contains(found, prereleases=True):
        return [(line, f'found {found}')]
    return []


def _check_module(module: str) -> list[tuple[str, str]]:
    from packaging.specifiers import SpecifierSet

    found = module_version(module)
    present = [name for name in _DISTRIBUTIONS[module] if _version(name)]
    if found is None:
        what = f'there is no module {module}' if _spec(module) is None else 'it has no version'
        return [(_wanted(module), what)]
    if not SpecifierSet(MODULES[module]).contains(found, prereleases=True):
        return [(f'{(present or [module])[0]}{MODULES[module]}', f'found {found}')]
    return []


def _wanted(module: str) -> str:
    """Name the distribution of a missing module, of the stack whose other half is there."""
    if module == 'mmcv':
        # It needs no compiler and serves everything that classification uses.
        return f'mmcv-lite{MODULES[module]}'
    stack = 'onedl' if any(map(_version, ('onedl-mmengine', 'onedl-mmpretrain'))) else 'openmmlab'
    return next(line for line in STACKS[stack] if module in line)


def module_version(module: str) -> str | None:
    """Read a module's version without importing it, from the ``version.py`` beside it.

    Args:
        module: ``mmengine``, ``mmpretrain`` or ``mmcv``.

    Returns:
        The version; None if there is no such module.
    """
    spec = _spec(module)
    if spec is None or not spec.origin:
        return None
    try:
        text = Path(spec.origin).with_name('version.py').read_text(encoding='utf-8')
    except OSError:
        return None
    found = re.search(r"""^__version__\s*=\s*(version\()?['"]([^'"]+)""", text, re.MULTILINE)
    if found is None:
        return None
    # The forks ask their distribution.
    return _version(found[2]) if found[1] else found[2]


def _check_torchvision() -> list[tuple[str, str]]:
    """Check that torchvision was built for this torch; beside another it fails obscurely."""
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


def _warn_of_risks() -> None:
    from packaging.version import Version

    if Version(_version('torch')) < Version('2.10'):
        warnings.warn(
            f'torch {_version("torch")} has a hole in torch.load (CVE-2026-24747), which a '
            'checkpoint from a stranger can use in spite of weights_only: update to 2.10 or later, '
            'or load checkpoints of your own alone.',
            stacklevel=2,
        )
    for module, names in _DISTRIBUTIONS.items():
        present = [name for name in names if _version(name)]
        if len(present) > 1:
            keep = next((name for name in present if name.startswith('onedl')), present[0])
            warnings.warn(
                f'{" and ".join(present)} both install the module {module}, and their files are '
                f'mixed now ({module} {module_version(module)}). This keeps one of them:\n'
                f'  {sys.executable} -m pip uninstall -y {" ".join(present)}\n'
                f'  {sys.executable} -m pip install --no-deps {keep}',
                stacklevel=2,
            )
