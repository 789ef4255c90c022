"""A fit finds the corruptions that were put into images, and a run trains with them."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from tests.toy import target, toy_config, train
from tl_plugin.datasets.degrade_quality import DegradeQuality
from tl_plugin.datasets.quality_matching import RELEVANT, distance, match_quality, scales


def _patches(count, seed, side=48):
    """Patches of photographs, at half their size, so that they are sharp."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(seed)
    photos = [
        cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for photo in load_sample_images().images
    ]
    found = []
    for _ in range(count):
        photo = photos[random.integers(len(photos))]
        top, left = (random.integers(edge - side) for edge in photo.shape[:2])
        found.append(np.ascontiguousarray(photo[top : top + side, left : left + side]))
    return found


def _degrade(images, **options):
    transform = DegradeQuality(seed=9, **options)
    return [transform(dict(img=image, sample_idx=i))['img'] for i, image in enumerate(images)]


@pytest.mark.parametrize('corruption', ['noise', 'low_light'])
def test_it_finds_the_corruption_that_was_put_in(corruption):
    patches = _patches(24, seed=1)
    field = _degrade(patches, corruptions={corruption: dict(severity=(2.0, 4.0))})
    match = match_quality(patches[::2], field, max_corruptions=1)
    assert list(match.corruptions) == [corruption]
    low, high = match.corruptions[corruption]['severity']
    assert (low + high) / 2 == pytest.approx(3, abs=1)
    assert match.after < 0.5 * match.before
    before, degraded, wanted = match.medians['noise' if corruption == 'noise' else 'brightness']
    assert abs(degraded - wanted) < 0.5 * abs(before - wanted)


def test_it_leaves_alone_what_is_alike():
    match = match_quality(
        _patches(12, seed=0), _patches(24, seed=1), min_gain=0.2, max_corruptions=1
    )
    assert match.corruptions == {} and match.before == match.after


def test_distance_is_a_mean_of_sorted_differences():
    random = np.random.default_rng(0)
    one, two = ({name: random.normal(size=10) for name in RELEVANT} for _ in range(2))
    units = scales(one, two)
    expected = np.mean(
        [np.abs(np.sort(one[name]) - np.sort(two[name])).mean() / units[name] for name in RELEVANT]
    )
    assert distance(one, two, units) == pytest.approx(expected)
    both = np.concatenate([one['noise'], two['noise']])
    spread = np.quantile(both, 0.75) - np.quantile(both, 0.25)
    assert units['noise'] == pytest.approx(max(spread, RELEVANT['noise']))


def test_too_few_images():
    with pytest.raises(ValueError, match='at least 8 images of each domain, got 4 source'):
        match_quality(_patches(4, 0), _patches(9, 1))


FITTED = dict(noise=dict(severity=(4.0, 5.0), prob=1.0))
#: The toy's target is darker by half.
DARKER = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5))))


def _config(folder, hook, **options):
    cfg = toy_config(folder, ('quality_matched',), {'val_cfg': DARKER, **options}, max_epochs=1)
    cfg.custom_hooks[0].update(max_images=8, **hook)
    return cfg


class TestRun:
    def test_it_trains_on_degraded_images_and_writes_a_config_that_does_too(self, tmp_path):
        cfg = _config(tmp_path, dict(corruptions=FITTED, prob=1.0))
        runner = train(cfg)
        dataset = runner.train_dataloader.dataset
        plain = runner.val_loop.dataloader.dataset
        wanted, found = (each[0]['inputs'].float() for each in (plain, dataset))
        assert (found - wanted).abs().mean() > 5
        again = Config.fromfile(tmp_path / 'quality_matched.py')
        assert again.custom_hooks == []
        kinds = [step.type for step in again.train_dataloader.dataset.pipeline]
        assert kinds[-2:] == ['RandomApply', 'PackInputs']
        assert [step.type for step in again.val_dataloader.dataset.pipeline] == ['PackInputs']
        again.work_dir = str(tmp_path / 'again')
        again_runner = train(again)
        state = again_runner.model.state_dict()
        for name, value in runner.model.state_dict().items():
            np.testing.assert_array_equal(value, state[name], err_msg=name)

    def test_it_fits_and_a_resumed_run_does_not_fit_again(self, tmp_path, monkeypatch):
        train(_config(tmp_path, {}))
        found = json.loads((tmp_path / 'quality_matched.json').read_text())
        assert 'low_light' in found['corruptions'] and found['after'] < found['before']

        def refuse(*args, **kwargs):
            raise AssertionError('fitted again')

        monkeypatch.setattr('tl_plugin.datasets.quality_matching.match_quality', refuse)
        cfg = _config(tmp_path, {}, load_from=str(tmp_path / 'epoch_1.pth'), resume=True)
        cfg.train_cfg.max_epochs = 2
        assert train(cfg).epoch == 2

    def test_scrambled_target_labels_give_the_same_fit(self, tmp_path):
        fits = []
        for labels in ('true', 'scrambled', 'none'):
            cfg = _config(
                tmp_path / labels,
                dict(target_dataloader=dict(dataset=dict(shift=0.5, labels=labels, seed=5))),
            )
            train(cfg)
            fits.append(json.loads((tmp_path / labels / 'quality_matched.json').read_text()))
        assert fits[0] == fits[1] == fits[2] and fits[0]['corruptions']

    def test_beside_an_alignment_and_by_iteration(self, tmp_path):
        options = {**target(), 'val_cfg': DARKER}
        for length in (dict(max_epochs=1), dict(max_iters=2)):
            cfg = toy_config(tmp_path, ('dann', 'quality_matched'), options, **length)
            cfg.custom_hooks[1].update(corruptions=FITTED)
            pair = train(cfg).train_dataloader
            kinds = [type(step).__name__ for step in pair.source.dataset.pipeline.transforms]
            assert kinds == ['RandomApply', 'PackInputs']
            target_steps = pair.target.loader.dataset.pipeline.transforms
            assert [type(step).__name__ for step in target_steps] == ['PackInputs']

    def test_labelled_target_images_among_the_source_stay_as_they_are(self, tmp_path):
        cfg = _config(tmp_path, dict(corruptions=FITTED, prob=1.0, sources=[0]))
        source = cfg.train_dataloader.dataset
        few = dict(source, shift=0.5)
        cfg.train_dataloader.dataset = dict(type='SeveralSources', datasets=[source, few])
        parts = train(cfg).train_dataloader.dataset.datasets
        kinds = [[type(step).__name__ for step in part.pipeline.transforms] for part in parts]
        assert kinds == [['RandomApply', 'PackInputs'], ['PackInputs']]
        again = Config.fromfile(tmp_path / 'quality_matched.py').train_dataloader.dataset.datasets
        assert [[step.type for step in part.pipeline] for part in again] == kinds

    @pytest.mark.parametrize('sources', [[1], [], [-1]])
    def test_a_source_that_is_not_there(self, tmp_path, sources):
        with pytest.raises(ValueError, match='of 1 data sets; the training data are ToyDataset'):
            train(_config(tmp_path, dict(sources=sources)))

    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(ValueError, match='needs target images: set its target_dataloader'):
            train(_config(tmp_path, {}, val_cfg=dict(_delete_=True)))
        nothing = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
        with pytest.raises(ValueError, match='this config has no val_dataloader'):
            train(toy_config(tmp_path, ('quality_matched',), nothing, max_epochs=1))
