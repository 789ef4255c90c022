"""Few target labels through the same config keys."""

import copy

import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from tests.folders import WRAPPERS, build, folder, make_folders
from tests.toy import ToyDataset, target, toy_config, train
from tl_plugin.models import DomainDataPreprocessor
from tl_plugin.models.data_preprocessor import LabelledImages

from .test_adaptation_classifier import DANN, _inputs, _model, _samples


def _target_samples(count=4):
    samples = [
        DataSample(metainfo=dict(img_path=f'data/target/{"ab"[i % 2]}/{i}.png', sample_idx=i))
        for i in range(count)
    ]
    for index, sample in enumerate(samples):
        sample.set_gt_label(index % 3)
    return samples


def _pair(count=4):
    source = dict(inputs=_inputs(3), data_samples=_samples(3))
    return dict(
        source=source, target=dict(inputs=_inputs(count, 1), data_samples=_target_samples(count))
    )


@pytest.mark.parametrize(
    ('listed', 'kept'),
    [
        ([1, 3], [1, 3]),
        (['a/2.png'], [2]),
        (['3.png', 'target/a/0.png'], [0, 3]),
        (['b/2.png'], []),
    ],
)
def test_only_listed_images_keep_their_labels(listed, kept):
    out = DomainDataPreprocessor(labelled_target=listed)(_pair(), training=True)
    found = [i for i, sample in enumerate(out['data_samples'][3:]) if 'gt_label' in sample]
    assert found == kept
    assert [out['data_samples'][3 + i].gt_label.item() for i in kept] == [i % 3 for i in kept]


def test_a_file_lists_them(tmp_path):
    (tmp_path / 'few.txt').write_text('a/0.png\n\n b/3.png \n')
    listed = LabelledImages(str(tmp_path / 'few.txt'))
    assert [sample.sample_idx for sample in _target_samples() if sample in listed] == [0, 3]
    with pytest.raises(FileNotFoundError, match=r'labelled_target names the file .*no\.txt'):
        DomainDataPreprocessor(labelled_target=str(tmp_path / 'no.txt'))
    with pytest.raises(ValueError, match='names no image'):
        DomainDataPreprocessor(labelled_target=[])


def test_the_strong_view_keeps_none():
    pair = _pair()
    pair['target']['inputs'] = [pair['target']['inputs'], pair['target']['inputs'] + 1]
    out = DomainDataPreprocessor(labelled_target=[0])(pair, training=True)
    labelled = ['gt_label' in sample for sample in out['data_samples'][3:]]
    assert labelled == [True] + [False] * 7


def test_their_cross_entropy_goes_into_the_classification_loss():
    model = _model(alignments=DANN, data_preprocessor=dict(labelled_target=[1, 3]))
    seen = []
    model.alignments['dann'].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    losses = model(**model.data_preprocessor(_pair(), True), mode='loss')
    logits = model.head.fc(model.extract_feat(torch.cat([_inputs(3), _inputs(4, 1)]))[-1])
    expected = torch.nn.functional.cross_entropy(
        logits[[0, 1, 2, 4, 6]], torch.tensor([0, 1, 2, 1, 0])
    )
    torch.testing.assert_close(losses['loss_cls'], expected)
    assert seen[0].labels.tolist() == [-1, 1, -1, 0]


def test_mixed_source_labels_go_with_plain_target_labels():
    mixup = dict(augments=[dict(type='Mixup', alpha=0.8)])
    model = _model(
        alignments=DANN,
        data_preprocessor=dict(labelled_target=[1], num_classes=3),
        train_cfg=mixup,
    )
    torch.manual_seed(0)
    data = model.data_preprocessor(_pair(), True)
    losses = model(**data, mode='loss')
    logits = model.head.fc(model.extract_feat(data['inputs'])[-1]).log_softmax(1)
    scores = [*(sample.gt_score for sample in data['data_samples'][:3]), torch.eye(3)[1]]
    expected = -(torch.stack(scores) * logits[[0, 1, 2, 4]]).sum(1).mean()
    torch.testing.assert_close(losses['loss_cls'], expected)


def test_labels_that_are_not_kept_change_nothing(tmp_path):
    states = []
    for labels in ('true', 'scrambled', 'listed scrambled'):
        options = target(labels='true', size=9)
        cfg = toy_config(tmp_path / labels, ['dann'], options, max_epochs=1)
        cfg.data_preprocessor.labelled_target = [0, 4]
        runner = _train_with(cfg, labels)
        states.append(runner.model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not all(torch.equal(value, states[2][key]) for key, value in states[0].items())


def _train_with(cfg, labels):
    load = ToyDataset.load_data_list

    def relabelled(self):
        items = load(self)
        if self.seed == 1 and labels != 'true':  # the target
            for index, item in enumerate(items):
                if (index in (0, 4)) == labels.startswith('listed'):
                    item['gt_label'] = (item['gt_label'] + 1) % 3
        return items

    ToyDataset.load_data_list = relabelled
    try:
        cfg.experiment_name = f'few_{labels.replace(" ", "_")}'
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        runner.train()
    finally:
        ToyDataset.load_data_list = load
    return runner


@pytest.mark.parametrize(
    ('listed', 'labels', 'message'),
    [
        ([0, 99], 'true', 'lists 1 images that the target data set of 9 images has not: 99'),
        ([0], 'none', 'lists 1 images to which the target data give no label'),
    ],
)
def test_the_loop_looks_for_them_first(tmp_path, listed, labels, message):
    cfg = toy_config(tmp_path, ['dann'], target(labels=labels), max_epochs=1)
    cfg.data_preprocessor.labelled_target = listed
    with pytest.raises(ValueError, match=message):
        train(cfg)


def test_names_that_fit_several_images_are_refused():
    class Data(list):
        get_data_info = list.__getitem__

    images = Data(
        dict(img_path=f'data/{name}/0.png', sample_idx=i, gt_label=0) for i, name in enumerate('ab')
    )
    with pytest.raises(ValueError, match=r'0\.png fit several target images'):
        LabelledImages(['0.png']).check(images)
    LabelledImages(['a/0.png', 'b/0.png']).check(images)


@pytest.mark.parametrize('kind', WRAPPERS)
def test_they_are_found_inside_of_a_wrapper(tmp_path, kind):
    dataset = build(WRAPPERS[kind](folder(make_folders(tmp_path / 'target'))))
    LabelledImages(['line/001.png', 'target/square/003.png', 7]).check(dataset)
    with pytest.raises(ValueError, match=r'lists 1 images .* of \d+ images has not: line/9\.png'):
        LabelledImages(['line/001.png', 'line/9.png']).check(dataset)
    if kind == 'fold':
        with pytest.raises(ValueError, match=r'of 9 images has not: circle/000\.png'):
            LabelledImages(['circle/000.png']).check(dataset)
    bare = build(WRAPPERS['repeat'](folder(tmp_path / 'target', with_label=False)))
    with pytest.raises(ValueError, match=r'give no label .*line/001\.png.*with_label=False drops'):
        LabelledImages(['line/001.png']).check(bare)


def test_numbers_in_joined_data_sets_are_ambiguous(tmp_path):
    parts = [folder(make_folders(tmp_path / name)) for name in 'ab']
    joined = build(dict(type='ConcatDataset', datasets=parts))
    with pytest.raises(ValueError, match='joins several, each of which counts from 0'):
        LabelledImages([3]).check(joined)
    LabelledImages(['b/line/001.png']).check(joined)
    with pytest.raises(ValueError, match=r'line/001\.png fit several target images'):
        LabelledImages(['line/001.png']).check(joined)
