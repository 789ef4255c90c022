import io
import warnings

import numpy as np
import pytest
from PIL import Image

from tl_plugin.reporting import plots


def decode(content):
    picture = Image.open(io.BytesIO(content))
    assert picture.format == 'PNG'
    return picture


def test_plots_of_loss_and_validation_are_pictures_even_of_nothing():
    shown, nothing = (decode(plots.plot_loss([run])) for run in ([(1, 1.0), (2, 0.5)], []))
    assert shown.size == nothing.size
    assert shown.tobytes() != nothing.tobytes()
    curve = [(1, 50.0), (2, 60.0)]
    for by_accuracy in (True, False):
        decode(plots.plot_validation([curve], [curve, []], by_accuracy))


@pytest.mark.parametrize('classes', [['a', 'b'], [f'class {i}' for i in range(30)]])
def test_confusion_picture_of_any_number_of_classes(classes):
    decode(plots.plot_confusion(np.eye(len(classes), dtype=int), classes, 'source'))


@pytest.mark.parametrize('name', ['backbone.timm_model.blocks.10.2', 'a_layer_of_a_long_name'])
def test_names_of_layers_have_room_below_a_single_rung(name):
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # matplotlib warns where it gives a layout up
        decode(plots.plot_layer_similarity({2: [0.5] * 11 + [None]}, [name] * 12))


def test_points_that_lie_together_share_a_label():
    points = {1: (90.0, 60.0), 2: (90.1, 60.2), 3: (70.0, 80.0)}
    assert [numbers for _, numbers in plots._shared_labels(points)] == [[1, 2], [3]]
    decode(plots.plot_tradeoff(points, {1: [88.0, 92.0]}, {}, 'target', chosen=3, frontier=[3, 1]))
