"""The report on data that isn't the digits: class folders, files read as BGR."""

import base64
import io
import re

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from skimage.data import astronaut

from tl_plugin.ladder.curves import image_data_uri
from tl_plugin.ladder.records import LadderResults, Predictions
from tl_plugin.ladder.report import class_names, make_report, samples, to_rgb
from tl_plugin.ladder.target_labels import build_dataset
from tl_plugin.reliability.files import write_json

COLOURS = dict(green=(0, 200, 0), red=(200, 0, 0))


@pytest.fixture
def cfg(tmp_path):
    for domain, dark in (('source', 1), ('target', 2)):
        for name, colour in COLOURS.items():
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            pixels = np.full((40, 60, 3), np.array(colour) // dark, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / 'image.png')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='ImageClassifier'),
            data_preprocessor=dict(to_rgb=True),
            test_dataloader=dict(
                dataset=dict(
                    type='CustomDataset', data_root=str(tmp_path / 'source'), pipeline=pipeline
                )
            ),
            test_cfg=dict(
                dataloaders=dict(target=dict(dataset=dict(data_root=str(tmp_path / 'target'))))
            ),
        )
    )


PREDICTIONS = dict(
    source=dict(truth=[0, 1], predicted=[0, 1], confidence=[1.0, 1.0]),
    target=dict(truth=[0, 1], predicted=[1, 1], confidence=[1.0, 1.0]),
)


AS_RECORDS = {name: Predictions.from_json(found) for name, found in PREDICTIONS.items()}


def open_uri(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(',')[1])))


def colour_of(uri):
    return open_uri(uri).getpixel((30, 20))


def test_samples_show_the_colours_of_the_files(cfg):
    for domain, dark in (('source', 1), ('target', 2)):
        dataset = build_dataset(cfg, domain)
        classes = class_names(dataset, {})
        assert classes == list(COLOURS)
        rungs = dict(source_only=[AS_RECORDS])
        shown = samples(dataset, domain, classes, rungs, 'source_only', to_rgb(cfg))
        assert [sample['truth'] for sample in shown] == classes
        for sample in shown:
            expected = tuple(value // dark for value in COLOURS[sample['truth']])
            assert colour_of(sample['image']) == pytest.approx(expected, abs=3)
    assert shown[0]['said'] == dict(source_only='red')


def test_photographs_leave_room_in_the_page():
    """Forty of them, and of any size, are well below the page's 5 MB."""
    shown = image_data_uri(astronaut())
    assert len(shown) < 20_000
    small = cv2.resize(astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    difference = np.asarray(open_uri(shown)).astype(int) - small
    assert np.abs(difference).mean() < 4
    digit = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    assert (np.asarray(open_uri(image_data_uri(digit))) == digit).all()


def test_classes_without_names_are_numbers():
    assert class_names(None, dict(dann=[AS_RECORDS])) == ['0', '1']


def test_a_report_escapes_what_it_is_told_and_names_failures(cfg, tmp_path):
    folder = tmp_path / 'work' / 'source_only' / 'seed_0'
    folder.mkdir(parents=True)
    write_json(folder / 'predictions.json', PREDICTIONS)
    rung = dict(
        name='source_only',
        about='',
        data='source',
        start=None,
        towards=None,
        seeds=[0],
        seconds=1.0,
        interval_method='images',
        source_accuracy_interval=[34.2, 100.0],
        target_accuracy_interval=None,
        source_accuracy=100.0,
        source_accuracy_spread=None,
        source_change=0.0,
        target_accuracy=50.0,
        target_accuracy_spread=None,
        target_change=0.0,
        config='a',
        iterations=1,
        trainable_parameters=1,
        parameters=1,
        folders=[str(folder)],
        command='python tools/train.py a && python tools/test.py a b',
    )
    results = dict(
        config='<script>',
        date='',
        machine='',
        commit=None,
        versions={},
        rungs=[rung],
        recommendation=None,
        not_climbed={'jan': '<i>'},
        failures=[dict(name='dann', seed=0, reason='ValueError: <b>', log=None)],
    )
    html = make_report(LadderResults.from_json(results), cfg)
    assert '<script>' not in html
    assert 'Not climbed: jan, for &lt;i&gt;' in html and 'No recommendation' in html
    assert 'dann (seed 0): ValueError: &lt;b&gt;' in html
    assert re.search(r'right on 100\.0% of the source\s+images is right on 50\.0% of', html)
    assert 'green taken for red (1 times)' in html
