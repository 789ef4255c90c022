"""What is measured beside the source model: against a reading by hand, on resume, on ranks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import stock_config, target, toy_config, train
from tl_plugin.engine.hooks import SimilarityHook
from tl_plugin.evaluation.similarity import centre_drift
from tl_plugin.functional import linear_gram, minibatch_cka
from tl_plugin.reliability.checkpoints import read_whole

DOMAINS = dict(
    type='DomainValLoop',
    dataloaders=dict(target=dict(dataset=dict(shift=0.5, size=11, labels='none'))),
    evaluators=dict(target=dict(type='TargetValidator')),
)
OPTIONS = {
    **target(),
    'val_cfg': DOMAINS,
    'train_cfg.val_interval': 1,
    'val_dataloader.dataset.size': 14,
    'default_hooks.checkpoint.max_keep_ckpts': 9,
    'optim_wrapper.optimizer.lr': 0.05,
}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, options={'train_cfg.val_interval': 9}, max_epochs=2))
    return folder / 'epoch_2.pth'


def _config(folder, source, epochs=2, strategies=('dann', 'similarity'), **options):
    hook = {key: options.pop(key) for key in ('interval', 'max_images', 'layers') if key in options}
    options = {**OPTIONS, 'load_from': str(source), **options}
    cfg = toy_config(folder, strategies, options, epochs)
    similarity = next(each for each in cfg.custom_hooks if each.type == 'SimilarityHook')
    similarity.update(hook, batch_size=5)
    return cfg


def _records(folder):
    return json.loads((folder / 'similarity.json').read_text())


def _read(runner, path, domain):
    """Outputs of one layer, features and predictions of a checkpoint, read by hand."""
    model = runner.model
    model.load_state_dict(read_whole(path)['state_dict'], strict=False)
    model.eval()
    loader, maps = runner.val_loop.domains[domain][0], []
    hook = model.backbone.layer3[1].register_forward_hook(
        lambda module, inputs, output: maps.append(output)
    )
    features, labels = [], []
    with torch.no_grad():
        for item in loader.dataset:
            batch = loader.collate_fn([item])
            batch = model.data_preprocessor(batch, False)
            features.append(model.extract_feat(batch['inputs'], stage='pre_logits'))
            labels += [s.pred_label.item() for s in model.predict(batch['inputs'])]
            del maps[len(features) :]
    hook.remove()
    return torch.cat(maps), torch.cat(features), torch.tensor(labels)


def test_what_is_logged_is_what_a_reading_by_hand_gives(source, tmp_path):
    runner = train(_config(tmp_path, source))
    found = _records(tmp_path)
    assert found['unit'] == 'epoch' and [record['step'] for record in found['records']] == [1, 2]
    depth = next(key for key, name in found['layers'].items() if name.endswith('layer3.1'))
    logged = runner.message_hub.log_scalars
    for domain in ('source', 'target'):
        maps, features, labels = _read(runner, source, domain)
        now_maps, now_features, now_labels = _read(runner, tmp_path / 'epoch_2.pth', domain)
        record = found['records'][-1][domain]
        grams = [[linear_gram(part) for part in each.split(5)] for each in (maps, now_maps)]
        assert record['cka'][depth] == pytest.approx(minibatch_cka(*grams), abs=1e-4)
        assert record['cka'][depth] < 0.999  # it moved, or this shows nothing
        one, two = features.double().numpy(), now_features.double().numpy()
        cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
        assert record['cosine'] == pytest.approx(cosine.mean(), abs=1e-4)
        flips = 100 * (labels != now_labels).float().mean()
        assert record['flips'] == pytest.approx(flips.item(), abs=1e-3)
        expected = centre_drift(features, now_features, labels)
        np.testing.assert_allclose(record['drift'], expected, atol=1e-4)
        assert (record['gained'] is None) == (domain == 'target')  # it has no labels
        assert logged[f'val/similarity/{domain}/cosine'].current() == record['cosine']
        assert logged[f'val/similarity/{domain}/cka/{depth}'].current() == record['cka'][depth]


def test_pictures_are_written_and_shown(source, tmp_path):
    cfg = _config(tmp_path, source, epochs=1)
    cfg.visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
    train(cfg)
    picture = Image.open(tmp_path / 'similarity.png')
    assert picture.size[0] > 800 and len(np.unique(np.asarray(picture))) > 50
    assert list(tmp_path.glob('*/vis_data/vis_image/similarity_*.png'))


@pytest.mark.slow
def test_it_changes_nothing_in_training(source, tmp_path):
    plain, watched = (
        train(_config(tmp_path / str(len(names)), source, strategies=names)).model.state_dict()
        if 'similarity' in names
        else train(
            toy_config(tmp_path / 'plain', names, {**OPTIONS, 'load_from': str(source)}, 2)
        ).model.state_dict()
        for names in (('dann',), ('dann', 'similarity'))
    )
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())


def test_it_measures_when_it_shall_on_so_many_images(source, tmp_path):
    cfg = _config(tmp_path, source, epochs=5, interval=2, max_images=7, layers=[0, -2])
    runner = train(cfg)
    found = _records(tmp_path)
    assert [record['step'] for record in found['records']] == [2, 4]
    assert len(found['layers']) == 2
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, SimilarityHook))
    assert [len(seen.features) for seen in hook._source.values()] == [7, 7]


def test_a_resumed_run_compares_with_the_same_and_keeps_its_records(source, tmp_path):
    train(_config(tmp_path / 'whole', source, epochs=3))
    middle = tmp_path / 'whole' / 'epoch_2.pth'
    train(_config(tmp_path / 'resumed', middle, epochs=3, resume=True))
    whole, resumed = _records(tmp_path / 'whole'), _records(tmp_path / 'resumed')
    assert resumed['records'][0] == whole['records'][0] and len(resumed['records']) > 1
    assert resumed['records'][-1] == whole['records'][-1]
    train(toy_config(tmp_path / 'none', ('dann',), OPTIONS, 1))
    with pytest.raises(ValueError, match='remembers nothing of its source model'):
        train(_config(tmp_path / 'none', tmp_path / 'none/epoch_1.pth', resume=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    'path', ['resnet/resnet50_8xb16-mixup_cifar10.py', 'deit/deit-tiny_4xb256_in1k.py']
)
def test_both_hooks_work_on_stock_configs(path, tmp_path):
    cfg = stock_config(
        path, tmp_path, ['similarity', 'retention'], image_size=32 if 'cifar' in path else 224
    )
    cfg.val_dataloader = cfg.train_dataloader.copy()
    cfg.val_dataloader.dataset.size = 4
    cfg.val_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    cfg.val_cfg, cfg.val_evaluator = dict(), dict(type='Accuracy', topk=(1,))
    logged = train(cfg).message_hub.log_scalars
    assert -1 <= logged['val/similarity/source/cosine'].current() <= 1 + 1e-6
    assert 'val/retention/agreement' in logged
    assert len(_records(tmp_path)['layers']) > 5


@pytest.mark.parametrize('name', ['max_images', 'interval', 'max_layers', 'batch_size'])
def test_wrong_arguments(name):
    with pytest.raises(ValueError, match=f'{name} must be at least'):
        SimilarityHook(**{name: 0})


def test_without_a_validation_it_says_what_it_needs(source, tmp_path):
    with pytest.raises(ValueError, match="validation images of the domain 'source'"):
        train(_config(tmp_path, source, val_cfg=None, val_dataloader=None, val_evaluator=None))


class TestDrift:
    def test_value_is_numpys(self):
        source, adapted = torch.randn(20, 4), torch.randn(20, 4)
        classes = torch.arange(20) % 3
        before, now = (
            np.stack([each.double().numpy()[classes.numpy() == k].mean(0) for k in range(3)])
            for each in (source, adapted)
        )
        pairs = ((0, 1), (0, 2), (1, 2))
        apart = np.mean([np.linalg.norm(before[i] - before[j]) for i, j in pairs])
        expected = np.linalg.norm(now - before, axis=1).mean() / apart
        assert centre_drift(source, adapted, classes) == pytest.approx(expected, rel=1e-9)

    def test_one_class_has_no_unit(self):
        features = torch.randn(5, 3)
        assert np.isnan(centre_drift(features, features, torch.zeros(5)))


def _on_every_rank(folder, source):
    cfg = _config(
        folder, source, epochs=1, launcher='pytorch', model_wrapper_cfg=dict(CPU_MODEL_WRAPPER)
    )
    logged = train(cfg).message_hub.log_scalars
    return {name: value.current() for name, value in logged.items() if 'similarity' in name}


@pytest.mark.slow
def test_ranks_measure_the_same(source, tmp_path):
    one, two = run_distributed(_on_every_rank, tmp_path, source)
    layers = sorted(name for name in one if 'cka' in name)
    assert set(one) == set(two) and len(layers) == 18
    # Each rank has running statistics of its own, hence not to the bit.
    np.testing.assert_allclose([one[n] for n in layers], [two[n] for n in layers], atol=0.05)


def test_what_cannot_be_written_fails_no_run(tmp_path, source, monkeypatch):
    def full(*_):
        raise OSError('No space left on device')

    monkeypatch.setattr('tl_plugin.engine.hooks.similarity_hook.write_json', full)
    monkeypatch.setattr('tl_plugin.engine.hooks.similarity_hook.plot_similarity', full)
    runner = train(_config(tmp_path, source, epochs=1))
    assert runner.epoch == 1 and (tmp_path / 'epoch_1.pth').is_file()
    assert not (tmp_path / 'similarity.json').exists()
    (log,) = tmp_path.glob('*/*.log')
    assert log.read_text().count('No space left on device') >= 2
