"""Interpolation between two trained models: exact ends, honest choice, an ordinary checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from tests.forked import run_tool
from tests.toy import fresh_name, target, toy_config, train
from tl_plugin.engine.interpolation import Interpolation, Soup, plain_model_config
from tl_plugin.engine.interpolation_choice import LABEL_FREE, Point, choose
from tl_plugin.functional import average_weights, interpolate_weights
from tl_plugin.reliability.checkpoints import checkpoint_weights, read_whole

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = {
    'val_cfg': dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5)))),
    'test_cfg': dict(type='DomainTestLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5)))),
}


def _config(folder, **options):
    return toy_config(folder, ('dann',), {**target(), **DOMAINS, **options}, max_epochs=1)


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """A source model and what DANN made of it."""
    folder = tmp_path_factory.mktemp('interpolation')
    train(toy_config(folder / 'source', max_epochs=1))
    source = folder / 'source' / 'epoch_1.pth'
    train(_config(folder / 'adapted', load_from=str(source)))
    return source, folder / 'adapted' / 'epoch_1.pth'


def _interpolation(checkpoints, folder, options=None, **kwargs):
    cfg = plain_model_config(_config(folder, **(options or {})))
    cfg.experiment_name = fresh_name('interpolation')
    weights = [checkpoint_weights(path)[0] for path in checkpoints]
    return Interpolation(Runner.from_cfg(cfg), *weights, **kwargs)


class TestWeights:
    def test_values_are_numpys(self):
        source, adapted = ({'w': torch.randn(3, 4), 'n': torch.tensor(step)} for step in (3, 5))
        for alpha in (0.0, 0.3, 1.0):
            found = interpolate_weights(source, adapted, alpha)
            expected = (1 - alpha) * source['w'].numpy() + alpha * adapted['w'].numpy()
            np.testing.assert_allclose(found['w'], expected, rtol=1e-6, atol=1e-7)
            assert found['n'] == 5

    def test_the_ends_are_the_models_to_the_bit(self):
        source, adapted = ({'w': torch.randn(100) * 1e3} for _ in range(2))
        assert torch.equal(interpolate_weights(source, adapted, 0.0)['w'], source['w'])
        assert torch.equal(interpolate_weights(source, adapted, 1.0)['w'], adapted['w'])

    def test_a_mean_is_numpys_and_of_one_model_its_own(self):
        models = [{'w': torch.randn(50) * 1e3, 'n': torch.tensor(step)} for step in range(3)]
        expected = np.mean([model['w'].double().numpy() for model in models], axis=0)
        found = average_weights(models)
        np.testing.assert_allclose(found['w'], expected, rtol=1e-6)
        assert found['n'] == 2 and torch.equal(average_weights(models[:1])['w'], models[0]['w'])

    def test_heads_of_different_widths_are_told(self):
        source, adapted = ({'head.fc.weight': torch.zeros(width, 4)} for width in (3, 5))
        message = r'head.fc.weight has the shape \(3, 4\) .* \(5, 4\) .* the same classes'
        with pytest.raises(ValueError, match=message):
            interpolate_weights(source, adapted, 0.5)

    def test_different_networks_are_told(self):
        message = 'head.bias is only in the adapted one'
        with pytest.raises(ValueError, match=message):
            interpolate_weights({}, {'head.bias': torch.zeros(1)}, 0.5)


class TestChoice:
    POINTS = [
        Point(0.0, 90.0, 50.0, 'own'),
        Point(1.0, 80.0, 70.0, 'own'),
        Point(0.2, 89.0, 60.0, 'estimated'),
        Point(0.4, 89.5, 60.0, 'estimated'),
        Point(0.6, 88.9, 68.0, 'estimated'),
    ]

    def test_best_target_within_the_budget_and_of_equals_the_better_source(self):
        assert choose(self.POINTS, budget=1.0).point.alpha == 0.4
        assert choose(self.POINTS, budget=0.0).point == self.POINTS[0]
        assert choose(self.POINTS, budget=1.1).point.alpha == 0.6

    def test_best_mean(self):
        assert choose(self.POINTS, 'mean').point.alpha == 0.6
        assert 'mean' in choose(self.POINTS, 'mean').why

    def test_a_score_has_another_unit_than_accuracy(self):
        assert 'best target validation score' in choose(self.POINTS, target_metric=LABEL_FREE).why
        with pytest.raises(ValueError, match="has another unit: use rule='budget'"):
            choose(self.POINTS, 'mean', target_metric=LABEL_FREE)

    def test_wrong_arguments(self):
        with pytest.raises(ValueError, match="budget, mean, got 'median'"):
            choose(self.POINTS, 'median')
        with pytest.raises(ValueError, match='at least 0 points, got -1'):
            choose(self.POINTS, budget=-1)


class TestSweep:
    def test_ends_as_they_are_are_what_the_checkpoints_are(self, checkpoints, tmp_path):
        points = list(_interpolation(checkpoints, tmp_path).sweep([0.0, 0.5, 1.0]))
        assert [(point.alpha, point.statistics) for point in points] == [
            (0, 'own'),
            (1, 'own'),
            (0, 'estimated'),
            (0.5, 'estimated'),
            (0.5, 'interpolated'),
            (1, 'estimated'),
        ]
        for point, path in zip(points, checkpoints):
            cfg = _config(tmp_path, load_from=str(path))
            cfg.experiment_name = fresh_name('test')
            found = Runner.from_cfg(cfg).test()  # here the test images are the validation images
            assert point.source == found['source/accuracy/top1']
            assert point.target == found['target/accuracy/top1']

    def test_statistics_are_those_of_the_named_domains(self, checkpoints, tmp_path):
        means = {}
        for domains in (['source'], ['target'], None):
            interpolation = _interpolation(checkpoints, tmp_path, statistics=domains)
            weights = interpolation.weights(Point(0.0, 0.0, 0.0, 'estimated'))
            again = interpolation.weights(Point(0.0, 0.0, 0.0, 'estimated'))
            assert all(torch.equal(value, again[name]) for name, value in weights.items())
            means[tuple(interpolation.statistics)] = weights['backbone.bn1.running_mean']
        source, target_, both = means.values()
        assert list(means)[2] == ('source', 'target')
        # 12 source images and 9 target images (a last one by itself gives no statistics).
        assert not torch.allclose(source, target_)
        torch.testing.assert_close(both, (12 * source + 8 * target_) / 20)

    def test_without_estimating_statistics_are_interpolated(self, checkpoints, tmp_path):
        interpolation = _interpolation(checkpoints, tmp_path, statistics=[])
        points = list(interpolation.sweep([0.0, 0.5, 1.0]))
        assert [point.statistics for point in points] == ['own', 'own', 'interpolated']
        source, adapted = (checkpoint_weights(path)[0] for path in checkpoints)
        name = 'backbone.bn1.running_var'
        found = interpolation.weights(points[-1])[name]
        torch.testing.assert_close(found, (source[name] + adapted[name]) / 2)

    def test_statistics_by_domain_are_mixed_and_taken_by_domain(self, checkpoints, tmp_path):
        by_domain = {'model.domain_specific_bn': True}
        train(_config(tmp_path / 'adapted', load_from=str(checkpoints[0]), **by_domain))
        pair = checkpoints[0], tmp_path / 'adapted' / 'epoch_1.pth'
        found = _interpolation(pair, tmp_path / 'sweep', by_domain)
        before, after = (checkpoint_weights(path)[0] for path in pair)
        own = 'backbone.bn1.running_mean'
        source = 'dsbn.backbone/bn1/running_mean'
        assert not torch.equal(after[own], after[source])
        mixed = found.weights(Point(0.25, 0, 0, 'interpolated'))
        for name in (own, source):  # the source model has one for both domains
            torch.testing.assert_close(mixed[name], 0.75 * before[own] + 0.25 * after[name])
        taken = found.weights(Point(0.25, 0, 0, 'estimated'))
        images = torch.stack([item['inputs'] for item in found._loaders[0].dataset]).float()
        model = found.model.eval()
        maps = model.backbone.conv1(model.data_preprocessor(dict(inputs=images))['inputs'])
        mean = maps.mean((0, 2, 3)).detach()
        torch.testing.assert_close(taken[source], mean, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(taken[own], taken[source], atol=1e-2)
        with pytest.raises(ValueError, match=r'model\.domain_specific_bn=True'):
            _interpolation(pair, tmp_path / 'joint')

    def test_what_the_config_lacks_is_named(self, checkpoints, tmp_path):
        with pytest.raises(ValueError, match="set val_cfg = dict\\(type='DomainValLoop'"):
            _interpolation(checkpoints, tmp_path, {'val_cfg': dict(_delete_=True)})
        with pytest.raises(ValueError, match='statistics of target need training images'):
            train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=1)
            _interpolation(checkpoints, tmp_path, {'train_cfg': train_cfg}, statistics=['target'])
        with pytest.raises(ValueError, match='no source/f1, but source/accuracy/top1'):
            list(_interpolation(checkpoints, tmp_path, metric='f1').sweep([0.5]))
        with pytest.raises(FileNotFoundError, match=r'no checkpoint at .*missing\.pth'):
            checkpoint_weights(tmp_path / 'missing.pth')


class TestSoup:
    #: Which models a mean is of -> accuracy on source and target, in percent.
    ACCURACIES = {
        'source': (90.0, 50.0),
        'bad': (90.0, 20.0),
        'tuned': (80.0, 70.0),
        'mild': (89.5, 55.0),
        'mild+tuned': (89.2, 68.0),
        'mild+tuned+source': (89.8, 66.0),
        'bad+mild+tuned': (89.9, 68.5),
    }

    def _soup(self, checkpoints, folder, **options):
        cfg = plain_model_config(_config(folder))
        cfg.experiment_name = fresh_name('soup')
        source, adapted = (checkpoint_weights(path)[0] for path in checkpoints)
        models = {'tuned': {name: adapted[name] for name in source}}
        for name, factor in (('mild', 0.5), ('bad', -1.0)):
            models[name] = interpolate_weights(source, models['tuned'], factor)
        return Soup(Runner.from_cfg(cfg), source, models, **options)

    def _by_hand(self, rule, budget):
        """The paper's recipe 1 over the table above, inside the budget."""
        table = self.ACCURACIES
        key = (lambda s, t: t) if rule == 'budget' else (lambda s, t: s + t)
        allowed = [n for n, (s, _) in table.items() if rule == 'mean' or s >= 90 - budget]
        singles = ('source', 'tuned', 'mild', 'bad')
        soup = [max((n for n in singles if n in allowed), key=lambda n: key(*table[n]))]
        for name in sorted(singles, key=lambda n: -table[n][1]):
            trial = '+'.join(sorted({*soup, name}, key=('bad', 'mild', 'tuned', 'source').index))
            best = key(*table['+'.join(sorted(soup, key=('bad', 'mild', 'tuned', 'source').index))])
            if name not in soup and trial in allowed and key(*table[trial]) > best:
                soup.append(name)
        return {*soup}

    @pytest.mark.parametrize(('rule', 'budget'), [('budget', 1.0), ('budget', 0.0), ('mean', 0.0)])
    def test_it_is_the_greedy_recipe(self, rule, budget, checkpoints, tmp_path, monkeypatch):
        soup = self._soup(checkpoints, tmp_path, statistics=[])

        def measure(alpha, statistics, models=()):
            name = '+'.join(sorted(models, key=('bad', 'mild', 'tuned', 'source').index))
            return Point(alpha, *self.ACCURACIES.get(name, (0.0, 0.0)), statistics, models)

        monkeypatch.setattr(soup, '_measure', measure)
        points = list(soup.cook(rule, budget))
        found = choose(points, rule, budget).point
        assert {*found.models} == self._by_hand(rule, budget)
        assert [point.models[0] for point in points[:4]] == ['source', 'tuned', 'mild', 'bad']

    def test_weights_and_statistics_are_the_mean_or_estimated(self, checkpoints, tmp_path):
        soup = self._soup(checkpoints, tmp_path)
        points = list(soup.cook())
        kinds = {(len(point.models), point.statistics) for point in points}
        assert {(1, 'own'), (2, 'estimated'), (2, 'interpolated')} <= kinds
        pair = next(point for point in points if point.statistics == 'interpolated')
        found = soup.weights(pair)
        for name in ('head.fc.weight', 'backbone.bn1.running_var'):
            mean = sum(soup.models[model][name] for model in pair.models) / len(pair.models)
            torch.testing.assert_close(found[name], mean)
        estimated = soup.weights(pair._replace(statistics='estimated'))
        assert torch.equal(estimated['head.fc.weight'], found['head.fc.weight'])
        name = 'backbone.bn1.running_var'
        assert not torch.allclose(estimated[name], found[name])


def test_the_tool_writes_what_it_says(checkpoints, tmp_path):
    cfg = _config(tmp_path)
    cfg.custom_imports = dict(imports=['tests.toy', 'tl_plugin'])
    cfg.dump(str(tmp_path / 'config.py'))
    command = [
        ROOT / 'tools/interpolate.py',
        tmp_path / 'config.py',
        *checkpoints,
        '--alphas',
        '0',
        '0.5',
        '--rule',
        'mean',
        '--work-dir',
        tmp_path / 'out',
    ]
    code, said = run_tool(*command)
    assert code == 0, said[-2000:]
    found = json.loads((tmp_path / 'out/interpolation.json').read_text())
    chosen = found['chosen']
    assert len(found['points']) == 5 and f'Chosen: alpha {chosen["alpha"]:g}' in said
    assert (tmp_path / 'out/interpolation.png').read_bytes().startswith(b'\x89PNG')
    # An ordinary checkpoint: tested, it has the accuracy that the table says.
    written = tmp_path / 'out/interpolated.pth'
    content = read_whole(written)
    assert set(content) == {'meta', 'state_dict'}
    assert set(content['state_dict']) == set(checkpoint_weights(checkpoints[0])[0])
    cfg = _config(tmp_path / 'test', load_from=str(written))
    cfg.experiment_name = 'written'
    metrics = Runner.from_cfg(cfg).test()
    assert metrics['target/accuracy/top1'] == pytest.approx(chosen['target'])
    assert metrics['source/accuracy/top1'] == pytest.approx(chosen['source'])


class TestLoop:
    OPTIONS = dict(alphas=[0.0, 0.5, 1.0], rule='mean')

    def _train(self, checkpoints, folder, **options):
        cfg = toy_config(folder, ('interpolation',), {**DOMAINS, 'load_from': str(checkpoints[0])})
        cfg.merge_from_dict(target())
        cfg.train_cfg.update({'adapted': str(checkpoints[1]), **self.OPTIONS, **options})
        return train(cfg)

    def test_the_run_ends_as_the_chosen_model(self, checkpoints, tmp_path):
        runner = self._train(checkpoints, tmp_path / 'run')
        reference = _interpolation(checkpoints, tmp_path / 'reference')
        choice = choose(list(reference.sweep(self.OPTIONS['alphas'])), 'mean')
        expected = reference.weights(choice.point)
        found = read_whole(tmp_path / 'run/epoch_1.pth')['state_dict']
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
        written = json.loads((tmp_path / 'run/interpolation.json').read_text())
        assert written['chosen']['alpha'] == choice.point.alpha
        assert written['statistics'] == ['source', 'target']
        assert runner.iter == 0

    def test_a_target_without_labels_is_chosen_by_a_score(self, checkpoints, tmp_path):
        cfg = plain_model_config(
            _config(
                tmp_path,
                **{
                    'val_cfg.evaluators': dict(target=dict(type='TargetValidator')),
                    'val_cfg.dataloaders.target.dataset.labels': 'none',
                },
            )
        )
        cfg.experiment_name = 'label_free'
        weights = [checkpoint_weights(path)[0] for path in checkpoints]
        interpolation = Interpolation(Runner.from_cfg(cfg), *weights)
        points = list(interpolation.sweep([0.5]))
        assert interpolation.target_metric == 'label_free/information_maximization'
        assert all(abs(point.target) < 3 < point.source for point in points)

    def test_several_adapted_models_make_a_soup(self, checkpoints, tmp_path):
        again = tmp_path / 'again.pth'
        again.write_bytes(checkpoints[1].read_bytes())
        adapted = [str(checkpoints[1]), str(again)]
        runner = self._train(checkpoints, tmp_path / 'run', adapted=adapted, alphas=None)
        written = json.loads((tmp_path / 'run/soup.json').read_text())
        assert written['adapted'] == adapted and runner.iter == 0
        first = [point['models'] for point in written['points']][:3]
        assert first == [['source'], *([path] for path in adapted)]
        assert written['chosen']['models']
        assert not (tmp_path / 'run/interpolation.png').exists()
        with pytest.raises(ValueError, match='names 2, whose mean is taken: leave alphas out'):
            self._train(checkpoints, tmp_path, adapted=adapted)

    def test_what_it_needs_is_named(self, checkpoints, tmp_path):
        with pytest.raises(ValueError, match=r'set load_from .* and train_cfg\.adapted'):
            self._train(checkpoints, tmp_path, adapted=None)
        with pytest.raises(ValueError, match=r'in \[0, 1\], got \(1.5,\)'):
            self._train(checkpoints, tmp_path, alphas=[1.5])
        with pytest.raises(ValueError, match="got 'median'"):
            self._train(checkpoints, tmp_path, rule='median')
