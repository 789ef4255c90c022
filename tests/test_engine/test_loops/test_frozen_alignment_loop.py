"""The last layer fits the target; all below it stays to the bit; checkpoints are ordinary."""

import pytest
import torch
from mmpretrain.apis import ImageClassificationInferencer

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import ToyDataset, target, toy_config, train
from tl_plugin.functional import frozen_alignment
from tl_plugin.reliability.checkpoints import read_whole

FIELD = dict(shift=0.5, size=9, seed=1)
OPTIONS = {
    **target(),
    'val_cfg': dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=FIELD))),
    # What augments at random must not be what features are made of.
    'train_dataloader.dataset.pipeline': [
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ],
}


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, max_epochs=1))
    return str(folder / 'epoch_1.pth')


def config(folder, start, options=None):
    return toy_config(
        folder, ['frozen_alignment'], {'load_from': start, **OPTIONS, **(options or {})}
    )


def features_of(model, dataset):
    """By hand: backbone, pooling, the mean over both images."""
    images = [dataset.get_data_info(i)['img'] for i in range(len(dataset))]
    inputs = model.data_preprocessor(
        dict(inputs=[torch.from_numpy(image).permute(2, 0, 1) for image in images]), False
    )['inputs']
    with torch.no_grad():
        maps = [model.backbone(x)[-1] for x in (inputs, inputs.flip(3))]
    return sum(found.mean((2, 3)) for found in maps) / 2


def test_only_the_last_layer_changes_and_it_is_the_fitted_one(tmp_path, start):
    runner = train(config(tmp_path, start, {'train_cfg.neighbours': 5}))
    assert (runner.epoch, runner.iter) == (1, 0)
    before, path = read_whole(start)['state_dict'], tmp_path / 'epoch_1.pth'
    after = read_whole(path)['state_dict']
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {'head.fc.weight', 'head.fc.bias'}

    model = runner.model.eval()
    source, field = ToyDataset(), ToyDataset(**FIELD)
    labels = torch.tensor([source.get_data_info(i)['gt_label'] for i in range(len(source))])
    field_features = features_of(model, field)
    found = frozen_alignment(features_of(model, source), labels, field_features, 3, neighbours=5)
    weight, bias = found.linear_layer(field_features)
    # Features of one batch and of several differ in their last digits.
    torch.testing.assert_close(after['head.fc.weight'], weight, rtol=1e-2, atol=0.05)
    torch.testing.assert_close(after['head.fc.bias'], bias, rtol=1e-2, atol=0.05)

    # mmpretrain's own inferencer predicts by the checkpoint and the written config.
    inferencer = ImageClassificationInferencer(
        str(tmp_path / f'{runner.timestamp}' / 'vis_data' / 'config.py'), str(path), device='cpu'
    )
    image = field.get_data_info(0)['img']
    scores = inferencer(image)[0]['pred_scores']
    assert len(scores) == 3 and abs(sum(scores) - 1) < 1e-5


def test_neither_labels_of_the_target_nor_the_order_of_loaders_matter(tmp_path, start):
    states = []
    for name, labels, shuffle in (('a', 'none', True), ('b', 'scrambled', False)):
        options = {**target(labels=labels), 'train_dataloader.sampler.shuffle': shuffle}
        states.append(train(config(tmp_path / name, start, options)).model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def on_two_ranks(folder, start):
    options = {'launcher': 'pytorch', 'model_wrapper_cfg': dict(CPU_MODEL_WRAPPER)}
    options['env_cfg.dist_cfg'] = dict(backend='gloo')
    return train(config(folder, start, options)).model.module.head.fc.weight.detach()


def test_two_processes_find_what_one_finds(tmp_path, start):
    one = train(config(tmp_path / 'one', start)).model.head.fc.weight
    first, second = run_distributed(on_two_ranks, str(tmp_path / 'two'), start)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'train_cfg.target_dataloader': None}, 'target_dataloader is missing'),
        ({'train_cfg.shares': [2.0]}, r'must be in \(0, 1\]'),
        (
            {
                'load_from': None,
                'model.type': 'AdaptationClassifier',
                'model.neck': dict(_delete_=True, type='BottleneckNeck'),
                'model.head.in_channels': None,
            },
            'BottleneckNeck in front of the head has random weights: set model.neck=None',
        ),
        (
            {
                'model.type': 'AdaptationClassifier',
                'model.alignments': dict(mcc=dict(type='MCCAlignment')),
            },
            'mcc would do nothing',
        ),
        ({'train_dataloader.dataset.labels': 'some'}, 'has no single label'),
    ],
)
def test_what_it_refuses(tmp_path, start, options, said):
    with pytest.raises(ValueError, match=said):
        train(config(tmp_path, start, options))
