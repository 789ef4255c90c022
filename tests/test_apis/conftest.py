"""A user's folder of images, a config and a checkpoint of the toy classes."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

CLASSES = ('red', 'green', 'blue')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=16),
    dict(type='PackInputs'),
]


def model_config() -> dict:
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
        data_preprocessor=dict(num_classes=3, mean=[120.0] * 3, std=[60.0] * 3),
    )


def square(label: int, rng: np.random.Generator, size: int = 16) -> np.ndarray:
    """A square in one of three colours on noise, in BGR."""
    image = rng.integers(0, 90, (size, size, 3), dtype=np.uint8)
    image[4:-4, 4:-4, 2 - label] += 120
    return image


@pytest.fixture(scope='session')
def user(tmp_path_factory):
    """A folder with ``field`` (40 images), class folders ``source``, a config, a checkpoint."""
    folder = tmp_path_factory.mktemp('user')
    rng = np.random.default_rng(0)
    for name, count in (('field', 40), ('source', 60)):
        for index in range(count):
            label = index % 3
            place = folder / name / (CLASSES[label] if name == 'source' else f'day_{index % 2}')
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f'{index:03d}.png'), square(label, rng))
    torch.manual_seed(0)
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=model_config(),
            val_dataloader=dict(
                batch_size=8,
                num_workers=0,
                dataset=dict(
                    type='CustomDataset', data_root=str(folder / 'source'), pipeline=PIPELINE
                ),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            val_evaluator=dict(type='Accuracy'),
            val_cfg=dict(),
        ),
        format_python_code=False,
    )
    cfg.test_dataloader, cfg.test_evaluator, cfg.test_cfg = cfg.val_dataloader, {}, {}
    cfg.dump(str(folder / 'config.py'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model_config())
    # Statistics of the images, so that predictions differ.
    images = torch.stack(
        [torch.from_numpy(square(i % 3, rng).transpose(2, 0, 1).copy()) for i in range(48)]
    )
    fit(model, images, torch.arange(48) % 3)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'model.pth')
    return SimpleNamespace(folder=folder, config=folder / 'config.py', weights=folder / 'model.pth')


def fit(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train for a second, not to the end: some predictions stay wrong."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(25):
        inputs = model.data_preprocessor(dict(inputs=images), training=True)['inputs']
        loss = torch.nn.functional.cross_entropy(model.head(model.extract_feat(inputs)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
