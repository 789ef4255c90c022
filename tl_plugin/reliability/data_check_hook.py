"""Check the data before they do harm: classes, labels, numbers of images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_plugin.datasets.bad_data import check_batches, describe_data
from tl_plugin.stack.protocol import SOURCE

from .batches import DROP_LAST, SingleImageGuard, domain_batches, name_of_sample
from .class_sets import check_classes, check_one_hot, check_width, dataset_classes, num_classes
from .data_identity import check_source_free, check_trained
from .missing_labels import check_labels_known
from .replayable_loader import is_endless, train_loaders


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Refuse data that would make a run silently wrong, or end in an obscure error.

    These are: a training loader without a batch; classes of training, validation and test data (of
    each domain), of the head and of a checkpoint to test, that differ in names or order; labels
    out of the head's range; one-hot labels (mixup) of another number of classes than the
    head's; batches of one image that BatchNorm can't train on; images without labels that are
    measured by labels. Class sets are compared where data
    sets name their classes. In validation and test an unknown label may be -1. Images that are
    in both training and validation data are counted in the log; without source images, the
    validation's domain ``source`` must not be the target.

    The launch adds this hook.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._trained: Any = ()
        self._guard: SingleImageGuard | None = None

    def before_run(self, runner: Runner) -> None:
        """Compare the classes of all loaders that are built, and look for empty ones.

        Raises:
            ValueError: If they don't fit together.
        """
        if isinstance(runner._train_loop, BaseLoop):
            self._check_training(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the classes that a checkpoint was trained for, to compare a test's with."""
        meta = checkpoint.get('meta') or {}
        found = meta.get('dataset_meta') if isinstance(meta, dict) else None
        names = found.get('classes') if isinstance(found, dict) else None
        self._trained = names if isinstance(names, (list, tuple)) else ()

    def before_test(self, runner: Runner) -> None:
        """Compare the classes of the test with those of the head and of the checkpoint.

        Raises:
            ValueError: If they differ.
        """
        for name, dataset in _evaluated(runner.test_loop, 'test_dataloader', 'test_cfg'):
            classes = dataset_classes(dataset)
            check_width(name, classes, runner.model)
            if len(self._trained) == num_classes(runner.model):
                check_classes('the checkpoint', self._trained, name, classes)
        _check_labels_known(runner.test_loop, 'test')

    def before_train(self, runner: Runner) -> None:
        """Look for a last batch of one image.

        Raises:
            ValueError: If BatchNorm can't train on it.
        """
        loaders = train_loaders(runner.train_loop)
        if len(loaders) == 1:  # two are put together, so that there is no batch of one
            _check_last_batch(runner, loaders[0])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Check the labels of the batch, as a GPU reports a wrong one by an obscure error.

        Raises:
            ValueError: If the head has no such class.
        """
        if getattr(data_batch, 'checked', False):
            return  # when the cache of features was made
        for domain, part in domain_batches(data_batch):
            samples = part.get('data_samples') or []
            if domain.split('/')[0] != 'target':  # its labels are dropped
                _check_labels(runner, domain, samples, _datasets(runner), lowest=0)
            if len(samples) == 1:
                what = f'the {domain} batch' if domain else 'the batch'
                self._guard = SingleImageGuard(
                    runner.model, f'{what} of iteration {runner.iter + 1}'
                )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Remove the guard of a batch of one image."""
        if self._guard is not None:
            self._guard.remove()
            self._guard = None

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Check the labels of the batch, as metrics would count a wrong one as a wrong answer.

        Raises:
            ValueError: If the head has no such class.
        """
        _check_evaluated(runner, runner.val_loop, data_batch)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Check the labels of the batch.

        Raises:
            ValueError: If the head has no such class.
        """
        _check_evaluated(runner, runner.test_loop, data_batch)

    def _check_training(self, runner: Runner) -> None:
        loader = runner._train_loop.dataloader
        if hasattr(loader, 'batch_size') and hasattr(loader, 'drop_last'):
            check_batches('train', loader)
        trained = dataset_classes(getattr(loader, 'dataset', None))
        check_width('training', trained, runner.model)
        inside = (runner.cfg.get('model') or {}).get('data_preprocessor')
        check_one_hot(runner.model, f'{"model." * bool(inside)}data_preprocessor.num_classes')
        if isinstance(runner._val_loop, BaseLoop):
            for name, dataset in _evaluated(runner._val_loop, 'val_dataloader', 'val_cfg'):
                check_width(name, dataset_classes(dataset), runner.model)
                check_classes('train_dataloader', trained, name, dataset_classes(dataset))
            _check_labels_known(runner._val_loop, 'val')
            self._check_identity(runner)

    def _check_identity(self, runner: Runner) -> None:
        evaluated = dict(_evaluated(runner._val_loop, 'val_dataloader', 'val_cfg'))
        trained = getattr(runner._train_loop.dataloader, 'dataset', None)
        domains = getattr(runner._train_loop.dataloader, 'domains', (SOURCE,))
        if SOURCE in domains:
            for name, dataset in evaluated.items():
                check_trained(trained, name, dataset)
        elif SOURCE in getattr(runner._val_loop, 'domains', ()):
            check_source_free(trained, evaluated['val_dataloader'])


def _evaluated(loop: Any, stock: str, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the data sets of a validation or test loop, each with its key in the config."""
    for name, (loader, _) in getattr(loop, 'domains', {'': (loop.dataloader, None)}).items():
        here = stock if name in ('', 'source') else f'{key}.dataloaders.{name}'
        yield here, loader.dataset


def _check_labels_known(loop: Any, stage: str) -> None:
    domains = getattr(loop, 'domains', {'': (loop.dataloader, loop.evaluator)})
    for name, (loader, evaluator) in domains.items():
        stock = name in ('', SOURCE)
        check_labels_known(
            f'{stage}_dataloader' if stock else f'{stage}_cfg.dataloaders.{name}',
            loader.dataset,
            evaluator.metrics,
            f'{stage}_evaluator' if stock else f'{stage}_cfg.evaluators.{name}',
        )


def _datasets(runner: Runner) -> dict[str, Any]:
    loader = runner.train_loop.dataloader
    return {'': loader.dataset, 'source': loader.dataset}


def _check_evaluated(runner: Runner, loop: Any, batch: Any) -> None:
    dataset = {'': loop.dataloader.dataset}
    for domain, part in domain_batches(batch):
        _check_labels(runner, domain, part.get('data_samples') or [], dataset, lowest=-1)


def _check_labels(
    runner: Runner, domain: str, samples: list, datasets: dict[str, Any], lowest: int
) -> None:
    width = num_classes(runner.model)
    if width is None:
        return
    for place, sample in enumerate(samples):
        labels = sample.gt_label.tolist() if 'gt_label' in sample else []
        wrong = [label for label in labels if not lowest <= label < width]
        if wrong:
            dataset = datasets.get(domain.split('/')[0])
            where = '' if dataset is None else f' in {describe_data(dataset)}'
            raise ValueError(
                f'label {wrong[0]} of {f"the {domain} image " if domain else ""}'
                f'{name_of_sample(sample, place)}{where} is out of range: the head has {width} '
                f'classes, 0 to {width - 1}. Correct the annotation, or set '
                'model.head.num_classes'
            )


def _check_last_batch(runner: Runner, loader: Any) -> None:
    size, samples = loader.batch_size, len(loader.sampler)
    if not size or size == 1 or samples % size != 1 or loader.drop_last or is_endless(loader):
        return
    norms = [
        module
        for module in runner.model.modules()
        if isinstance(module, _BatchNorm) and any(p.requires_grad for p in module.parameters())
    ]
    if not norms:
        return
    message = (
        f'the last batch of each epoch has 1 image ({samples} on this rank, batches of {size}), '
        f'and {len(norms)} BatchNorm layers train on it. {DROP_LAST}'
    )
    if any(isinstance(module, nn.BatchNorm1d) for module in norms):
        raise ValueError(f'{message}: BatchNorm1d has no variance of one vector')
    print_log(f'{message[0].upper()}{message[1:]}.', logger='current', level=logging.WARNING)
