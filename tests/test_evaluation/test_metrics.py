import pytest
import torch
from mmpretrain.evaluation import Accuracy, SingleLabelMetric

from tl_plugin.evaluation import LabelledOnly


def samples(labels):
    torch.manual_seed(0)
    found = []
    for label in labels:
        sample = dict(pred_score=torch.rand(3).softmax(0))
        if label is not None:
            sample['gt_label'] = torch.tensor([label])
        found.append(sample)
    return found


@pytest.mark.parametrize('kind', [Accuracy, SingleLabelMetric])
def test_is_the_metric_of_the_labelled_images(kind):
    images = samples([0, -1, 2, None, 1, 1])
    ours, plain = LabelledOnly(dict(type=kind)), kind()
    for batch in (images[:4], images[4:]):
        ours.process({}, batch)
    plain.process({}, [image for image in images if 'gt_label' in image and image['gt_label'] >= 0])
    assert ours.evaluate(6) == plain.evaluate(4)


def test_without_a_label_there_is_no_value():
    metric = LabelledOnly(dict(type='Accuracy'))
    metric.process({}, samples([None, -1]))
    assert metric.evaluate(2) == {}
    metric.dataset_meta = dict(classes=('a', 'b'))
    assert metric.metric.dataset_meta == metric.dataset_meta
