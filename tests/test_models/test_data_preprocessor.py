import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample

from tl_plugin.models import DomainDataPreprocessor

NORMALISE = dict(mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0], to_rgb=True, num_classes=3)
MIXUP = dict(augments=[dict(type='Mixup', alpha=0.8)])


def _batch(size, labels=True, value=0, side=4):
    samples = [DataSample(metainfo=dict(img_path=f'{i}.png')) for i in range(size)]
    if labels:
        for index, sample in enumerate(samples):
            sample.set_gt_label(index % 3)
    inputs = [torch.full((3, side, side), value + i, dtype=torch.uint8) for i in range(size)]
    return dict(inputs=inputs, data_samples=samples)


def test_an_ordinary_batch_is_mmpretrains():
    ours = DomainDataPreprocessor(**NORMALISE)(_batch(3), training=True)
    theirs = ClsDataPreprocessor(**NORMALISE)(_batch(3), training=True)
    assert torch.equal(ours['inputs'], theirs['inputs'])
    labels = [[s.gt_label.item() for s in out['data_samples']] for out in (ours, theirs)]
    assert labels[0] == labels[1] == [0, 1, 2]


def test_a_pair_is_joined_source_first_and_told_apart():
    pair = dict(source=_batch(3), target=_batch(2, value=100))
    out = DomainDataPreprocessor(**NORMALISE)(pair, training=True)
    for name, part in (('source', out['inputs'][:3]), ('target', out['inputs'][3:])):
        batch = _batch(3) if name == 'source' else _batch(2, value=100)
        expected = ClsDataPreprocessor(**NORMALISE)(batch, training=True)['inputs']
        assert torch.equal(part, expected)
    assert [sample.domain for sample in out['data_samples']] == ['source'] * 3 + ['target'] * 2


def test_target_labels_and_scores_are_dropped_and_names_kept():
    target = _batch(2)
    for sample in target['data_samples']:
        sample.set_gt_score(torch.ones(3) / 3)
    out = DomainDataPreprocessor(**NORMALISE)(dict(source=_batch(3), target=target), training=True)
    for sample in out['data_samples'][3:]:
        assert not list(sample.keys())
        assert sample.img_path in ('0.png', '1.png')


def test_mixup_touches_the_source_alone():
    torch.manual_seed(0)
    preprocessor = DomainDataPreprocessor(**NORMALISE, batch_augments=MIXUP)
    out = preprocessor(dict(source=_batch(3), target=_batch(2, value=100)), training=True)
    plain = DomainDataPreprocessor(**NORMALISE)(
        dict(source=_batch(3), target=_batch(2, value=100)), training=True
    )
    assert not torch.equal(out['inputs'][:3], plain['inputs'][:3])
    assert torch.equal(out['inputs'][3:], plain['inputs'][3:])
    assert all('gt_score' in sample for sample in out['data_samples'][:3])
    assert not any('gt_score' in sample for sample in out['data_samples'][3:])


def test_a_target_without_data_samples():
    target = dict(inputs=_batch(2)['inputs'])
    out = DomainDataPreprocessor(**NORMALISE)(dict(source=_batch(3), target=target), training=True)
    assert len(out['data_samples']) == len(out['inputs']) == 5


def test_images_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r'source \(3, 4, 4\) and target \(3, 6, 6\)'):
        DomainDataPreprocessor()(dict(source=_batch(2), target=_batch(2, side=6)))


def test_an_unlabelled_source_is_refused_by_name():
    with pytest.raises(ValueError, match=r'2 of 2 source images have no label \(0.png, 1.png\)'):
        DomainDataPreprocessor()(dict(source=_batch(2, labels=False), target=_batch(2)))


def test_a_second_view_of_the_target_comes_last():
    weak, strong = _batch(2, value=100), _batch(2, value=200)
    for stack in (torch.stack, list):  # as default_collate and pseudo_collate give them
        views = [stack(weak['inputs']), stack(strong['inputs'])]
        samples = _batch(2)['data_samples']
        pair = dict(source=_batch(3), target=dict(inputs=views, data_samples=samples))
        out = DomainDataPreprocessor(**NORMALISE)(pair, training=True)
        expected = ['source'] * 3 + ['target'] * 2 + ['target_strong'] * 2
        assert [sample.domain for sample in out['data_samples']] == expected
        assert not any('gt_label' in sample for sample in out['data_samples'][3:])
        for part, batch in ((out['inputs'][3:5], weak), (out['inputs'][5:], strong)):
            plain = ClsDataPreprocessor(**NORMALISE)(dict(inputs=batch['inputs']))['inputs']
            assert torch.equal(part, plain)


def test_three_views_are_refused():
    views = [torch.zeros(2, 3, 4, 4)] * 3
    with pytest.raises(ValueError, match='this pipeline gives 3'):
        DomainDataPreprocessor()(dict(source=_batch(2), target=dict(inputs=views)))
