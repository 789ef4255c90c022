"""Overlays that survive wrong labels, in the classifier and in whole runs."""

import csv

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.dataset import ConcatDataset
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from scipy.special import softmax
from torch.utils.data import Subset

from tests.distributed import run_distributed
from tests.toy import ToyDataset, toy_config, train
from tl_plugin.datasets.image_numbers import ImageNumbers, ImageWeights, identity
from tl_plugin.datasets.label_table import read_label_table
from tl_plugin.datasets.several_sources import SeveralSources
from tl_plugin.models import AdaptationClassifier

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
MODEL = dict(
    backbone=dict(type='DANNDigitsBackbone'),
    head=dict(type='LinearClsHead', num_classes=3),
)


class Named:
    """A data set of images by path."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def get_data_info(self, index):
        return dict(img_path=f'{index}.png', sample_idx=index)


def model_of(**changes):
    torch.manual_seed(0)
    return AdaptationClassifier(**{**MODEL, **changes})


def batch(images=range(8), sources=None, num_target=0):
    """Images and samples of a joint batch, each image by its number."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 3, 28, 28, generator=generator)[list(images)]
    samples = []
    for place, image in enumerate(images):
        domain = 'target' if place >= len(inputs) - num_target else 'source'
        metainfo = dict(img_path=f'{image}.png', sample_idx=place, domain=domain)
        if sources is not None:
            metainfo['source_index'] = sources[place]
        samples.append(DataSample(metainfo=metainfo).set_gt_label(LABELS[image]))
    return inputs, samples


def each_loss(model, inputs):
    """Cross-entropy of each image by numpy."""
    p = softmax(model(inputs).detach().double().numpy(), axis=1)
    return -np.log(p[np.arange(8), LABELS])


class TestSmallLosses:
    @pytest.mark.parametrize(('rate', 'kept'), [(0.0, 8), (0.25, 6), (0.3, 6), (0.9, 1)])
    def test_the_mean_of_the_small_ones(self, rate, kept):
        model, (inputs, samples) = model_of(), batch()
        model.set_forget_rate(rate)
        expected = np.sort(each_loss(model, inputs))[:kept].mean()
        assert model.loss(inputs, samples)['loss_cls'].item() == pytest.approx(expected, rel=1e-5)

    def test_each_source_and_the_few_target_images_choose_by_themselves(self):
        model, (inputs, samples) = model_of(), batch(sources=[0, 0, 0, 0, 1, 1, 0, 0], num_target=2)
        model.set_forget_rate(0.5)
        losses = each_loss(model, inputs)
        kept = [*np.sort(losses[:4])[:2], *np.sort(losses[4:6])[:1], *np.sort(losses[6:])[:1]]
        found = model.loss(inputs, samples)['loss_cls'].item()
        assert found == pytest.approx(np.mean(kept), rel=1e-5)

    def test_weights_change_the_mean_and_not_the_choice(self):
        model, (inputs, samples) = model_of(), batch()
        weights = np.linspace(0.2, 1.8, 8)
        numbers = {('source', f'{n}.png'): float(w) for n, w in enumerate(weights)}
        model.set_image_weights(ImageWeights(numbers))
        losses = each_loss(model, inputs)
        found = model.loss(inputs, samples)['loss_cls'].item()
        assert found == pytest.approx((losses * weights).mean(), rel=1e-5)
        model.set_class_weights(torch.tensor([1.0, 2.0, 0.5]))
        model.set_forget_rate(0.5)
        weights *= np.array([1.0, 2.0, 0.5])[LABELS]
        small = np.argsort(losses)[:4]
        expected = (losses[small] * weights[small]).mean()
        found = model.loss(inputs, samples)['loss_cls'].item()
        assert found == pytest.approx(expected, rel=1e-5)

    def test_heads_of_several_labels_and_without_a_loss_an_image(self):
        inputs, samples = batch()
        loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
        head = dict(type='MultiLabelLinearClsHead', num_classes=3, loss=loss)
        model = model_of(head=head)
        expected = F.binary_cross_entropy_with_logits(
            model(inputs), F.one_hot(torch.tensor(LABELS), 3).float(), reduction='none'
        )
        model.set_forget_rate(0.5)
        found = model.loss(inputs, samples)['loss_cls']
        torch.testing.assert_close(found, expected.sum(dim=1).sort().values[:4].mean())
        model.head.loss = lambda *_, **__: {'loss': torch.zeros(())}
        with pytest.raises(ValueError, match=r'one loss an image, and this head gives loss \(\)'):
            model.loss(inputs, samples)


class TestEarlyLearning:
    OPTIONS = dict(type='EarlyLearningRegularizer', momentum=0.6, loss_weight=2.0)

    def remembering(self, **options):
        model = model_of(regularizers=dict(elr=dict(self.OPTIONS, **options)))
        numbers = ImageNumbers(dict(source=Named(8), target=Named(8)))
        model.memories()['elr'].remember(numbers)
        return model

    def test_by_the_code_of_its_authors(self):
        """As in https://github.com/shengliu66/ELR, ELR/model/loss.py."""
        model, memory = self.remembering(), torch.zeros(8, 3)
        for images in ([0, 1, 2, 3], [4, 5, 6, 7], [3, 1, 7, 0]):
            inputs, samples = batch(images)
            y_pred = torch.clamp(F.softmax(model(inputs), dim=1), 1e-4, 1.0 - 1e-4)
            y_pred_ = y_pred.data.detach()
            memory[images] = 0.6 * memory[images] + (1 - 0.6) * (
                y_pred_ / y_pred_.sum(dim=1, keepdim=True)
            )
            elr_reg = (1 - (memory[images] * y_pred).sum(dim=1)).log().mean()
            found = model.loss(inputs, samples)['loss_elr']
            torch.testing.assert_close(found, 2.0 * elr_reg)
        torch.testing.assert_close(model.memories()['elr'].memory()[:8], memory)

    def test_gradient(self):
        model, (inputs, samples) = self.remembering(), batch()
        model.loss(inputs, samples)
        target = model.memories()['elr'].memory()[:8]
        logits = model(inputs).detach().requires_grad_()
        p = logits.softmax(dim=1)
        new = 0.6 * target + 0.4 * p.detach()
        expected = torch.autograd.grad(2 * (1 - (new * p).sum(1)).log().mean(), logits)[0]
        model.head.fc.bias.grad = None
        model.loss(inputs, samples)['loss_elr'].backward()
        torch.testing.assert_close(model.head.fc.bias.grad, expected.sum(dim=0))

    def test_an_image_that_comes_twice_counts_with_its_mean(self):
        model, (inputs, samples) = self.remembering(), batch([2, 5, 2])
        inputs[2] += 0.5  # augmented otherwise
        model.loss(inputs, samples)
        p = model(inputs).softmax(dim=1)
        found = model.memories()['elr'].memory()
        torch.testing.assert_close(found[2], 0.4 * (p[0] + p[2]).detach() / 2)
        assert (found[[0, 1, 3, 4]] == 0).all()

    def test_target_images_are_others(self):
        model, (inputs, samples) = self.remembering(images='both'), batch([1, 1], num_target=1)
        model.loss(inputs, samples)
        filled = model.memories()['elr'].memory().any(dim=1).nonzero().flatten()
        assert filled.tolist() == [1, 9]

    def test_without_a_hook_and_an_unknown_image(self):
        model, (inputs, samples) = model_of(regularizers=dict(elr=self.OPTIONS)), batch()
        with pytest.raises(ValueError, match=r'ImageMemoryHook.* to custom_hooks'):
            model.loss(inputs, samples)
        model.memories()['elr'].remember(ImageNumbers(dict(source=Named(4))))
        with pytest.raises(
            ValueError, match=r"img_path='4\.png' and sample_idx=4 is none of the 4"
        ):
            model.loss(inputs, samples)


def _step(rank=0, size=1):
    """Gradient and memory after a step on a share of the images."""
    model = model_of(regularizers=dict(elr=TestEarlyLearning.OPTIONS))
    model.memories()['elr'].remember(ImageNumbers(dict(source=Named(8))))
    model.set_forget_rate(0.5)
    losses = model.loss(*batch(range(8)[rank::size]))
    (losses['loss_cls'] + losses['loss_elr']).backward()
    return model.head.fc.weight.grad, model.memories()['elr'].memory()


def _share():
    return _step(dist.get_rank(), dist.get_world_size())


def test_two_processes_are_one():
    expected, memory = _step()
    (one, first), (other, second) = run_distributed(_share)
    torch.testing.assert_close((one + other) / 2, expected)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, memory)


def write_table(path, rows):
    with path.open('w', newline='', encoding='utf-8-sig') as file:
        table = csv.writer(file)
        table.writerows([('file', 'given', 'score', 'right', 'label'), *rows])
    return str(path)


def weighted(folder, rows=None, **options):
    """A config of 12 images in memory, of the classes red, green and blue in turn."""
    file = None if rows is None else write_table(folder / 'labels.csv', rows)
    options['custom_hooks'] = [dict(type='LabelWeightsHook', file=file)]
    options['model.type'] = 'AdaptationClassifier'
    return toy_config(folder, (), options, max_epochs=1)


class TestWeightedLabels:
    ROWS = (
        ('train/0', 'red', 0.9, 0.1, 'red'),
        ('train/1', 'green', 0.1, 0.9, 'green'),
        ('train/2', 'red', 0.9, 0.05, 'blue'),  # corrected: the data say blue
        ('train/4', 'green', 0.0, '', 'green'),  # not judged
    )

    def test_weights_of_a_run(self, tmp_path):
        runner = train(weighted(tmp_path, self.ROWS))
        weights = runner.model._image_weights
        samples = [DataSample(metainfo=dict(sample_idx=n)) for n in range(12)]
        expected = np.array([0.1, 0.9, *[1.0] * 10])
        np.testing.assert_allclose(weights.of(samples), expected / expected.mean())

    def test_it_says_how_many_are_missing(self, tmp_path):
        cfg = weighted(tmp_path, self.ROWS)
        cfg.log_level = 'INFO'
        train(cfg)
        text = ' '.join(path.read_text() for path in tmp_path.rglob('*.log'))
        assert '2 of 12 training images weigh by' in text
        assert '9 are not judged there, 1 have another label by now: these count as right' in text

    def test_images_by_their_path(self, tmp_path):
        """A table beside moved images names them from its own folder."""
        (tmp_path / '1.png').touch()
        table = write_table(tmp_path / 'labels.csv', [('1.png', 'a', 0.5, 0.25, 'a')])
        found = read_label_table(table)
        assert found[str((tmp_path / '1.png').resolve())].right == 0.25

    @pytest.mark.parametrize(
        ('rows', 'options', 'message'),
        [
            (None, {}, 'custom_hooks.LabelWeightsHook.file='),
            (
                [('train/77', 'red', 0, 1, 'red')],
                {},
                "none of the images of .*, such as 'train/77', is among",
            ),
            ([('train/0', 'red', 0, 'high', 'red')], {}, "right must be a probability, got 'high'"),
            (
                ROWS,
                {'model.train_cfg': dict(augments=dict(type='Mixup', alpha=1.0))},
                'mixup or cutmix make one of two',
            ),
        ],
    )
    def test_refused(self, rows, options, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            train(weighted(tmp_path, rows, **options))

    def test_another_table(self, tmp_path):
        (tmp_path / 'x.csv').write_text('file,label\na.png,cat\n')
        with pytest.raises(ValueError, match=r'no column given, right: expected the labels\.csv'):
            read_label_table(tmp_path / 'x.csv')
        with pytest.raises(FileNotFoundError, match='no table of labels at'):
            read_label_table(tmp_path / 'y.csv')


def test_joined_images_without_paths_are_told_by_their_source(tmp_path):
    parts = [ToyDataset(size=3, seed=seed) for seed in (0, 1)]
    numbers = ImageNumbers(dict(source=SeveralSources(parts, least_ratio=1.0)))
    samples = [
        DataSample(metainfo=dict(sample_idx=place, source_index=part))
        for part, place in ((1, 2), (0, 2), (0, 0))
    ]
    assert len(numbers) == 6 and numbers.of(samples) == [5, 2, 0]
    # Samples of cached features, which no data set gives, record the same.
    pipeline = [dict(type='mmpretrain.PackInputs')]
    parts = [ToyDataset(size=size, pipeline=pipeline) for size in (3, 4)]
    some = Subset(SeveralSources(parts, least_ratio=1.0), [9, 4, 0, 2, 7])
    for index in range(len(some)):
        sample = some[index]['data_samples']
        told = dict(sample_idx=sample.sample_idx, source_index=sample.source_index)
        assert identity(some, index) == told
    with pytest.raises(ValueError, match=r'several data sets are joined, .* by SeveralSources'):
        ImageNumbers(dict(source=ConcatDataset(parts)))


class TestRuns:
    def test_the_share_left_out_grows_with_training(self, tmp_path, monkeypatch):
        seen = []
        keep = AdaptationClassifier.set_forget_rate
        monkeypatch.setattr(
            AdaptationClassifier,
            'set_forget_rate',
            lambda self, rate: (seen.append(rate), keep(self, rate)),
        )
        options = {'custom_hooks.0.forget_rate': 0.4, 'custom_hooks.0.ramp': 0.5}
        cfg = toy_config(tmp_path, ['co_teaching'], options)  # 2 epochs of 3 steps
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='EMAHook')]
        runner = train(cfg)
        ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model
        # EMAHook, which pairs buffers by their order, meets none that its copy hasn't.
        kept, values = [*ema.module.buffers()], [*runner.model.buffers()]
        assert len(kept) == len(values) and all(map(torch.equal, kept, values))
        assert seen == pytest.approx([0, 0, 0.4 / 3, 0.8 / 3, 0.4, 0.4, 0.4])

    def test_other_images_than_the_checkpoint_remembers(self, tmp_path):
        train(toy_config(tmp_path, ['early_learning'], max_epochs=1))
        cfg = toy_config(tmp_path, ['early_learning'], {'train_dataloader.dataset.size': 16})
        cfg.load_from, cfg.resume = str(tmp_path / 'epoch_1.pth'), True
        with pytest.raises(ValueError, match='each of 12 training images, and these 16 are others'):
            train(cfg)
        cfg.resume = False  # a new run
        train(cfg)

    @pytest.mark.parametrize('hook', ['SmallLossHook', 'LabelWeightsHook'])
    def test_without_a_source_there_is_nothing_to_choose(self, hook, tmp_path):
        cfg = toy_config(tmp_path, ['shot'], dict(load_from=str(tmp_path / 'source.pth')))
        torch.save(
            dict(state_dict=MODELS.build(toy_config(tmp_path).model).state_dict()), cfg.load_from
        )
        options = dict(file='labels.csv') if hook == 'LabelWeightsHook' else {}
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type=hook, **options)]
        with pytest.raises(ValueError, match='source images, and training without a source has'):
            train(cfg)
