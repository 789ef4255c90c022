"""What is known of single target images is theirs, in whatever data sets they are wrapped."""

import pytest
import torch

from tests.folders import WRAPPERS
from tests.toy import toy_config, train
from tl_plugin.datasets.image_numbers import ImageNumbers

TOY = dict(type='ToyDataset', labels='none', shift=0.5, size=9, seed=1)
TOY['pipeline'] = [dict(type='PackInputs')]
OTHER = {**TOY, 'size': 5, 'seed': 2}
TWO = dict(type='SeveralSources', datasets=[TOY, OTHER])
METHODS = {
    'self_training': (['self_training'], {}),
    'shot': (
        ['dann'],
        {
            'model.alignments.centroid': dict(type='CentroidPseudoLabelAlignment'),
            'custom_hooks': [dict(type='CentroidPseudoLabelHook')],
        },
    ),
    'aad': (
        ['dann'],
        {
            'model.alignments.aad': dict(type='AaDAlignment', num_neighbours=2),
            'custom_hooks': [dict(type='NeighbourMemoryHook')],
        },
    ),
}


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, max_epochs=1))
    return str(folder / 'epoch_1.pth')


def run(method, dataset, folder, start):
    strategies, options = METHODS[method]
    target = {'train_cfg.target_dataloader': dict(dataset={'_delete_': True, **dataset})}
    options = {**target, 'load_from': start, **options}
    options['optim_wrapper.optimizer.lr'] = 0.0  # all see the source model
    return train(toy_config(folder, strategies, options, max_epochs=1)).model


def known(model):
    """What a model knows of each target image, by its number."""
    if model._memory is None:
        return model._pseudo_labels
    return model._memory.state()['features']


@pytest.mark.parametrize('method', METHODS)
def test_a_wrapper_changes_nothing(method, tmp_path, start):
    expected = known(run(method, TOY, tmp_path / 'plain', start))
    assert len(expected) == 9
    several = WRAPPERS['several'](TOY)
    for number, wrapped in enumerate([WRAPPERS['repeat'](TOY), WRAPPERS['repeat'](several)]):
        found = known(run(method, wrapped, tmp_path / str(number), start))
        assert len(found) == 9
        if method == 'self_training':  # of repeated images, others are among the surest
            assert ((found == expected) | (found < 0) | (expected < 0)).all()
        elif method == 'shot':  # the memory of aad has seen other batches
            assert torch.equal(found, expected)


@pytest.mark.parametrize('method', METHODS)
def test_joined_data_sets_keep_their_images_apart(method, tmp_path, start):
    found = known(run(method, TWO, tmp_path, start))
    assert len(found) == 14
    if method == 'aad':
        apart = (found[:5] - found[9:]).abs().sum(1)
        assert (apart > 1e-3).all(), 'the fifth of one is not the fifth of the other'


@pytest.mark.parametrize('method', METHODS)
def test_images_that_cannot_be_told_apart_are_refused(method, tmp_path, start):
    joined = dict(type='ConcatDataset', datasets=[TOY, OTHER])
    with pytest.raises(ValueError, match=r'no path, and several data sets .* by SeveralSources'):
        run(method, joined, tmp_path, start)


def test_images_that_others_stand_in_for_are_missed(tmp_path, start, monkeypatch):
    """As for one that can't be read: nothing is known of it, and nothing may be made up."""
    monkeypatch.setattr(ImageNumbers, 'of', lambda self, samples, domain=None: [0] * len(samples))
    with pytest.raises(ValueError, match=r'needs all 9 target images, .* in place of 8'):
        run('shot', TOY, tmp_path, start)


def test_a_domain_can_be_given_where_samples_have_none():
    from mmpretrain.structures import DataSample

    from tests.folders import build

    numbers = ImageNumbers(dict(target=build(TOY)))
    samples = [DataSample(metainfo=dict(sample_idx=place)) for place in (3, 0)]
    assert numbers.of(samples, 'target') == [3, 0]
    with pytest.raises(ValueError, match='an image of the source'):
        numbers.of(samples)
