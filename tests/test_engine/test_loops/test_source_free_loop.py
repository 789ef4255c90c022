"""Adaptation without a source, and the labels by class centroids that go with it."""

import pytest
import torch
from mmengine.runner import Runner

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.folders import WRAPPERS
from tests.toy import loader, target, toy_config, train
from tl_plugin.functional import centroid_pseudo_labels
from tl_plugin.reliability.checkpoints import read_whole

BY_TARGET = {
    'val_cfg': dict(
        type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.6, size=30)))
    ),
    'val_evaluator': dict(type='Accuracy', topk=(1,)),
}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A source model."""
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, options={'optim_wrapper.optimizer.lr': 0.05}, max_epochs=8))
    return str(folder / 'epoch_8.pth')


def _config(work_dir, checkpoint, labels='true', size=9, strategies=('shot',), **options):
    unit = {k: options.pop(k) for k in ('max_epochs', 'max_iters') if k in options}
    cfg = toy_config(
        work_dir, strategies, {**BY_TARGET, 'load_from': checkpoint, **options}, **unit
    )
    cfg.train_dataloader = loader(labels=labels, shift=0.6, size=size, seed=1)
    return cfg


def test_labels_are_seen_by_nobody(tmp_path, checkpoint):
    states = [
        train(_config(tmp_path / labels, checkpoint, labels, max_epochs=2)).model.state_dict()
        for labels in ('true', 'scrambled', 'none')
    ]
    for other in states[1:]:
        assert all(torch.equal(value, other[key]) for key, value in states[0].items())


def test_a_training_loader_in_a_wrapper_becomes_the_target(tmp_path, checkpoint):
    states = []
    for kind in ('plain', 'repeat'):
        cfg = _config(tmp_path / kind, checkpoint, max_epochs=1)
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[name].dataset = WRAPPERS[kind](cfg[name].dataset.to_dict())
        # As with data_root: over the wrapper, and meant for what is inside.
        cfg.merge_from_dict({'train_dataloader.dataset.shift': 0.7})
        states.append(train(cfg).model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_head_stays_and_the_features_learn(tmp_path, checkpoint):
    source = read_whole(checkpoint)['state_dict']
    runner = train(_config(tmp_path, checkpoint, size=30, max_epochs=6))
    state = runner.model.state_dict()
    assert torch.equal(state['head.fc.weight'], source['head.fc.weight'])
    assert not torch.equal(state['backbone.conv1.weight'], source['backbone.conv1.weight'])
    logged = runner.message_hub.log_scalars
    assert 'train/loss_cls' not in logged
    for name in ('information_maximization', 'centroid_pseudo_label'):
        assert f'train/loss_{name}' in logged
    # It helps, from labels that nobody gave it.
    plain = Runner.from_cfg(_config(tmp_path / 'plain', checkpoint, strategies=()))
    plain.load_or_resume()
    before = plain.build_val_loop(plain.cfg.val_cfg).run()['target/accuracy/top1']
    assert logged['val/target/accuracy/top1'].current() > before


def test_labels_are_those_of_the_whole_target(tmp_path, checkpoint):
    runner = train(_config(tmp_path, checkpoint, max_epochs=1))
    saved = read_whole(tmp_path / 'epoch_1.pth')
    # All that mmengine itself writes, and hook_msgs, which publishing drops.
    assert set(saved) == {
        'meta',
        'state_dict',
        'message_hub',
        'optimizer',
        'param_schedulers',
        'hook_msgs',
    }
    assert len(saved['hook_msgs']['centroid_pseudo_labels']) == 9
    hook = next(h for h in runner.hooks if type(h).__name__ == 'CentroidPseudoLabelHook')
    hook._label(runner)
    model = runner.model.eval()
    dataset = runner.train_dataloader.dataset
    images = torch.stack([dataset[index]['inputs'] for index in range(len(dataset))])
    feats = model.extract_feat(model.data_preprocessor(dict(inputs=images))['inputs'])
    expected = centroid_pseudo_labels(feats[-1], model.head(feats).softmax(1))
    assert torch.equal(hook._labels, expected)
    seen = []
    model.alignments['centroid_pseudo_label'].register_forward_pre_hook(
        lambda _, args: seen.append(args[1].pseudo_labels)
    )
    for batch in runner.train_dataloader:
        indices = [sample.sample_idx for sample in batch['target']['data_samples']]
        model(**model.data_preprocessor(batch, True), mode='loss')
        assert torch.equal(seen[-1], expected[indices])


@pytest.mark.parametrize(
    ('unit', 'stop', 'end', 'interval'), [('max_iters', 4, 6, 3), ('max_epochs', 2, 3, 2)]
)
def test_a_resumed_run_ends_alike(tmp_path, checkpoint, unit, stop, end, interval):
    states = []
    for name, parts in (('whole', [end]), ('parts', [stop, end])):
        for last in parts:
            cfg = _config(tmp_path / name, checkpoint, **{unit: last})
            cfg.custom_hooks[1].interval = interval
            cfg.param_scheduler = None
            if last != parts[0]:
                kind = unit[4:-1]
                cfg.load_from, cfg.resume = str(tmp_path / name / f'{kind}_{stop}.pth'), True
            runner = train(cfg)
        states.append(runner.model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def _on_rank(work_dir, checkpoint):
    cfg = _config(
        work_dir,
        checkpoint,
        max_epochs=1,
        launcher='pytorch',
        model_wrapper_cfg=CPU_MODEL_WRAPPER,
        **{'env_cfg.dist_cfg': dict(backend='gloo')},
    )
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner = train(cfg)
    hook = next(h for h in runner.hooks if type(h).__name__ == 'CentroidPseudoLabelHook')
    return hook._labels


def test_two_processes_find_the_labels_of_one(tmp_path, checkpoint):
    one, other = run_distributed(_on_rank, str(tmp_path), checkpoint)
    cfg = _config(tmp_path / 'one', checkpoint, max_epochs=1)
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner = train(cfg)
    hook = next(h for h in runner.hooks if type(h).__name__ == 'CentroidPseudoLabelHook')
    assert torch.equal(one, other) and torch.equal(one, hook._labels)


@pytest.mark.parametrize('length', [dict(max_epochs=1), dict(max_iters=3)], ids=str)
def test_beside_a_source_it_is_the_target_that_is_labelled(tmp_path, length):
    options = {
        **target(size=7, shift=0.6),
        'train_dataloader.dataset.size': 12,
        'model.alignments.centroid': dict(type='CentroidPseudoLabelAlignment'),
        'custom_hooks': [dict(type='CentroidPseudoLabelHook')],
    }
    runner = train(toy_config(tmp_path, ['dann'], options, **length))
    labels = runner.model._pseudo_labels
    assert len(labels) == 7 and labels.min() >= 0
    hook = next(h for h in runner.hooks if type(h).__name__ == 'CentroidPseudoLabelHook')
    assert hook._images.loader.dataset.shift == 0.6


def test_what_it_refuses(tmp_path, checkpoint):
    with pytest.raises(ValueError, match='set load_from to its checkpoint'):
        train(_config(tmp_path, None, max_epochs=1))
    cfg = _config(tmp_path, checkpoint)
    cfg.train_cfg = dict(type='SourceFreeTrainLoop')
    with pytest.raises(ValueError, match='give one of them, got max_epochs=None'):
        train(cfg)
    cfg = _config(tmp_path, checkpoint, max_epochs=1)
    cfg.custom_hooks = cfg.custom_hooks[:1]
    with pytest.raises(ValueError, match=r"dict.type='CentroidPseudoLabelHook'. to custom_hooks"):
        train(cfg)
    cfg = _config(tmp_path, checkpoint, max_epochs=1)
    part = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, part])
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    with pytest.raises(ValueError, match='Join them by SeveralSources'):
        train(cfg)
