"""Class folders, lists and wrapped data sets, for tests that look at data and read no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

CLASSES = ('circle', 'line', 'square')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


def make_folders(root: Path, counts: dict[str, int] | int = 4) -> Path:
    """Fill class folders with empty files called images."""
    counts = dict.fromkeys(CLASSES, counts) if isinstance(counts, int) else counts
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f'{index:03d}.png').touch()
    return root


def make_list(path: Path, folder: Path, absolute: bool = False, labels: bool = True) -> Path:
    """List the images of class folders, as ``CustomDataset`` reads them."""
    lines = []
    for image in sorted(folder.rglob('*.png')):
        name = image.absolute() if absolute else image.relative_to(folder)
        lines.append(f'{name} {CLASSES.index(image.parent.name)}' if labels else str(name))
    path.write_text('\n'.join(lines) + '\n')
    return path


def folder(root: object, **options: object) -> dict:
    """A data set config over class folders."""
    # Serializing collects all garbage, which takes longer than reading the folders.
    base = dict(type='CustomDataset', data_root=str(root), serialize_data=False)
    return dict(base, pipeline=list(PIPELINE), **options)


def build(config: dict) -> Any:
    """Build a data set as a run does."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(config)


#: How people wrap the source's data set.
WRAPPERS = dict(
    plain=lambda inner: inner,
    repeat=lambda inner: dict(type='RepeatDataset', times=3, dataset=inner),
    balanced=lambda inner: dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=inner),
    fold=lambda inner: dict(type='KFoldDataset', num_splits=4, dataset=inner),
    joined=lambda inner: dict(type='ConcatDataset', datasets=[inner]),
    several=lambda inner: dict(type='SeveralSources', datasets=[inner]),
    nested=lambda inner: dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='SeveralSources',
            datasets=[dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=inner)],
        ),
    ),
)
#: How options name the data set inside, in the nesting of each wrapper.
NESTING = dict(
    plain='',
    repeat='dataset.',
    balanced='dataset.',
    fold='dataset.',
    joined='datasets.0.',
    several='datasets.0.',
    nested='dataset.datasets.0.dataset.',
)
