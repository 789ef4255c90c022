"""Resizing inside a graph against the libraries that it stands in for."""

from __future__ import annotations

import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose

from tl_plugin.apis.export.preprocessing import Preprocessing, read_pipeline
from tl_plugin.apis.export.resampling import INTERPOLATIONS, resize

SIZES = ((20, 31), (31, 20), (16, 16), (64, 50), (90, 101))


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw noise as smooth as a photograph is, (H, W, 3), uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return mmcv.imresize(noise[::3, ::3], (width, height), interpolation='bicubic')


@pytest.mark.parametrize('backend', INTERPOLATIONS)
@pytest.mark.parametrize('shape', [(47, 61), (61, 47)])
def test_pixels_are_those_of_the_library(backend, shape):
    image = photograph(*shape)
    levels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    for name in INTERPOLATIONS[backend]:
        for height, width in SIZES:
            if name == 'area' and (height > shape[0] or width > shape[1]):
                continue
            found = resize(levels, height, width, name, backend)[0].permute(1, 2, 0).numpy()
            how = dict(interpolation=name, backend=backend)
            expected = mmcv.imresize(image, (width, height), **how)
            near = np.abs(found - expected)
            if backend == 'pillow':
                # Pillow rounds between the two directions, whose order depends on its version.
                rows_first = mmcv.imresize(image, (width, shape[0]), **how)
                assert (found == mmcv.imresize(rows_first, (width, height), **how)).all(), name
                assert near.mean() < 0.35, (name, height, width)
            else:
                most = 0 if name in ('bilinear', 'nearest') else 1
                assert near.max() <= most, (name, height, width)


PIPELINES = dict(
    imagenet=[
        dict(type='ResizeEdge', scale=36, edge='short'),
        dict(type='CenterCrop', crop_size=32),
    ],
    long_edge=[
        dict(type='ResizeEdge', scale=30, edge='long'),
        dict(type='Resize', scale=(32, 24)),
    ],
    odd_crop=[dict(type='Resize', scale=(37, 34)), dict(type='CenterCrop', crop_size=(32, 31))],
    efficientnet=[
        dict(type='EfficientNetCenterCrop', crop_size=32, crop_padding=5, interpolation='bilinear')
    ],
)


@pytest.mark.parametrize('name', PIPELINES)
@pytest.mark.parametrize('shape', [(41, 60), (60, 41), (40, 40), (33, 90), (200, 77)])
@pytest.mark.parametrize('to_rgb', [True, False])
def test_preprocessing_is_the_pipeline(name, shape, to_rgb):
    from mmengine.registry import DefaultScope
    from mmpretrain.models import ClsDataPreprocessor
    from mmpretrain.registry import TRANSFORMS

    steps = [dict(type='LoadImageFromFile'), *PIPELINES[name], dict(type='PackInputs')]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose([TRANSFORMS.build(step) for step in steps[1:]])
    normalise = ClsDataPreprocessor(mean=[120.0, 110, 100], std=[60.0, 61, 62], to_rgb=to_rgb)
    bgr = photograph(*shape)
    expected = normalise(dict(inputs=pipeline(dict(img=bgr))['inputs'][None]))['inputs']
    ours = Preprocessing(read_pipeline(steps), normalise)
    rgb = torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1]))[None]
    assert torch.equal(ours(rgb), expected)


@pytest.mark.parametrize(
    ('steps', 'said'),
    [
        ([dict(type='CenterCrop', crop_size=32)], 'smaller than the crop'),
        ([dict(type='ResizeEdge', scale=32)], 'several sizes'),
        ([dict(type='Resize', scale=(32, 32), keep_ratio=True)], 'keeps the ratio'),
        ([dict(type='DegradeQuality'), dict(type='Resize', scale=(32, 32))], 'DegradeQuality'),
        ([dict(type='LoadImageFromFile', color_type='grayscale')], 'color_type'),
        (
            [dict(type='Resize', scale=(32, 32), backend='pillow', interpolation='nearest')],
            'pillow and nearest',
        ),
    ],
)
def test_what_a_graph_cannot_do_is_refused(steps, said):
    with pytest.raises(ValueError, match=said):
        read_pipeline([*steps, dict(type='PackInputs')])
