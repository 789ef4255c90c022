import base64
import io
import json
import warnings

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix as reference

from tl_plugin.ladder import curves
from tl_plugin.ladder.records import Predictions, RungResult


def decode(uri, expected='png'):
    kind, _, data = uri.partition(',')
    assert kind == f'data:image/{expected};base64'
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_confusion_matrix_is_scikit_learns():
    random = np.random.default_rng(0)
    seeds = [
        Predictions(*(tuple(random.integers(0, 4, 50).tolist()) for _ in range(2)), ())
        for _ in range(2)
    ]
    expected = sum(reference(seed.truth, seed.predicted, labels=range(4)) for seed in seeds)
    np.testing.assert_array_equal(curves.confusion_matrix(seeds, 4), expected)


def write(folder, name, records):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


def test_a_resumed_run_makes_one_curve(tmp_path):
    write(
        tmp_path,
        '20260101_1',
        [
            dict(step=10, loss=2.0),
            dict(step=20, loss=1.5),
            {'step': 1, 'target/accuracy/top1': 30.0},
        ],
    )
    write(
        tmp_path,
        '20260101_2',
        [
            dict(step=20, loss=1.4),
            dict(step=30, loss=1.0),
            {'step': 2, 'target/accuracy/top1': 40.0},
        ],
    )
    training, validation = curves.read_scalars(tmp_path)
    assert [(record['step'], record['loss']) for record in training] == [
        (10, 2.0),
        (20, 1.4),
        (30, 1.0),
    ]
    assert [record['target/accuracy/top1'] for record in validation] == [30.0, 40.0]


def test_pictures_are_pictures_even_of_nothing():
    points = [dict(step=1, loss=1.0), dict(step=2, loss=0.5)]
    shown, nothing = (decode(curves.plot_loss(runs)) for runs in ([points], [[]]))
    assert shown.size == nothing.size
    assert shown.tobytes() != nothing.tobytes()
    records = [{'step': step, 'source/accuracy/top1': 50.0} for step in (1, 2)]
    assert curves.plot_validation([records[:1]]) is None  # one validation makes no curve
    decode(curves.plot_validation([records]))


@pytest.mark.parametrize('classes', [['a', 'b'], [f'class {i}' for i in range(30)]])
def test_confusion_picture_of_any_number_of_classes(classes):
    decode(curves.plot_confusion(np.eye(len(classes), dtype=int), classes, 'source'))


def test_sample_images_keep_their_colours_and_shrink():
    image = np.zeros((300, 200, 3), dtype=np.uint8)
    image[..., 0] = 200
    shown = decode(curves.image_data_uri(image), 'jpeg')
    assert shown.size == (85, 128)
    assert shown.getpixel((40, 60)) == pytest.approx((200, 0, 0), abs=2)


@pytest.mark.parametrize('name', ['backbone.timm_model.blocks.10.2', 'a_layer_of_a_long_name'])
def test_names_of_layers_have_room_below_a_single_rung(name):
    kept = dict(layers=[name] * 12, target=dict(cka=[0.5] * 12))
    rungs = {2: RungResult('fine_tune', kept_layers=kept)}
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # matplotlib warns where it gives a layout up
        curves.plot_kept_layers(rungs, 'target')
