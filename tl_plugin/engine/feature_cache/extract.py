"""Computes the features of a training set once, or finds those that were computed before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mmengine
import mmpretrain
import numpy as np
import torch
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tl_plugin.datasets.wrappers import inner_datasets
from tl_plugin.reliability.bad_images import FaultyBatch, TolerantCollate
from tl_plugin.reliability.batches import image_names
from tl_plugin.reliability.fingerprint import files_fingerprint, fingerprint
from tl_plugin.reliability.ranks import on_all_ranks, on_main_process
from tl_plugin.reliability.replayable_loader import Draws, ReplayableLoader, SampleReader
from tl_plugin.reliability.seeds import stem_from
from tl_plugin.reporting.progress import progress

from .stages import Stage
from .store import FeatureStore, FeatureWriter, Leaf, known_caches, megabytes

#: How many images show what a stage gives, and whether a cache is of this model.
_NUM_PROBES = 3


class Extraction:
    """The features that one model computes of all images of a loader.

    Args:
        model: The unwrapped model, in the modes of training.
        loader: Of the images.
        context: Returns the context of a training step, for mixed precision.
        root: The folder of all caches.
        views: How many times each image goes through the pipeline.
        dtype: In which features are kept; None as they are computed.

    Attributes:
        stage: Up to which features are computed.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: ReplayableLoader,
        context: Callable,
        root: Path,
        views: int,
        dtype: str | None,
    ) -> None:
        self.model, self.loader, self._context = model, loader, context
        self.root, self.views, self.dtype = Path(root), views, dtype
        self._rows = len(loader.dataset) * views
        self._probe = np.linspace(0, len(loader.dataset) - 1, _NUM_PROBES).astype(int).tolist()
        batch = self._read(self._probe, 0)
        data = self._preprocess(batch)
        scores = self._labels(batch, data)[1]
        self.stage = Stage(model, data, context)
        self._features = [*map(self._kept, self.stage.features)]
        self._layout = [Leaf.of(column) for column in [*self._features, *scores]]
        self._random = self._is_random()

    def store(self) -> FeatureStore:
        """Return the cache of exactly these features, which is written unless it is there."""
        key = on_main_process(self._key)
        name = fingerprint(key)
        place = self.root / name
        store = self._usable(place)
        if all(all_gather_object(store is not None)):
            print_log(f'Features of {self._rows:,} images were found in {place}.', 'current')
            return store
        for other, known in known_caches(self.root).items():
            differing = [kind for kind in key if key[kind] != known.get(kind)]
            if differing:
                print_log(
                    f'The features in {self.root / other} are of another run, which differs in '
                    f'{", ".join(differing)}.',
                    logger='current',
                )
        self._write(FeatureWriter(self.root, key, name, self._rows, self._layout))
        return FeatureStore(place)

    def _key(self) -> dict[str, str]:
        dataset = self.loader.dataset
        pipelines = [getattr(inner, 'pipeline', None) for inner in inner_datasets(dataset)]
        with self.stage.statistics():
            weights = fingerprint(self.stage.tensors())
        with self._context():
            device = next(self.model.parameters()).device.type
            autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        modules = [m for part in self.stage.modules.values() for m in part.modules()]
        return dict(
            weights=weights,
            network=fingerprint(self.stage.name, [_settings(module) for module in modules]),
            pipeline=fingerprint(pipelines, self.loader.collate_fn),
            data=fingerprint(dataset, files_fingerprint(dataset)),
            preprocessor=fingerprint(
                _settings(self.model.data_preprocessor),
                dict(self.model.data_preprocessor.named_buffers()),
            ),
            features=fingerprint([tuple(leaf) for leaf in self._layout], autocast),
            views=str(self.views),
            seed=str(self.loader.seed) if self._random else 'any',
            versions=f'torch {torch.__version__}, mmpretrain {mmpretrain.__version__}, '
            f'mmengine {mmengine.__version__}',
        )

    def _is_random(self) -> bool:
        """Whether the pipeline gives other images each time; warns where that is lost."""
        first, *others = (self._read(self._probe, view)['inputs'] for view in range(9))
        found = not all(_equal(first, other) for other in others)
        if found and self.views == 1:
            print_log(
                'The training pipeline augments at random, and each image is cached in one view: '
                'that view is all that training sees. Cache more (train_cfg.views=8), or give '
                'train_dataloader.dataset the pipeline of the test.',
                logger='current',
                level=logging.WARNING,
            )
        return found

    def _usable(self, place: Path) -> FeatureStore | None:
        """Return the cache in its place, if it is whole and a few recomputed features are in it."""
        if not place.is_dir():
            return None
        try:
            store = FeatureStore(place)
        except ValueError as error:
            print_log(f'{error}; it is computed again.', 'current', logging.WARNING)
            return None
        for leaf, features in zip(store.leaves, self._features):
            known, now = leaf[self._probe].float(), features.float()
            if not torch.allclose(known, now, rtol=1e-2, atol=1e-2 * float(now.abs().max())):
                print_log(
                    f'The features in {place} are not those of this model, although the key is '
                    'the same: they are computed again.',
                    logger='current',
                    level=logging.WARNING,
                )
                return None
        return store

    def _write(self, writer: FeatureWriter) -> None:
        print_log(
            f'Features of {self._rows:,} images, {megabytes(writer.nbytes)}, are computed once and '
            f'kept in {writer.place}: {", ".join(map(str, self._layout))} each.',
            logger='current',
        )
        writer.folder = on_main_process(writer.create)
        try:
            labels = on_all_ranks(lambda: self._compute(writer))
            on_main_process(lambda: writer.finish([row for share in labels for row in share]))
        except BaseException:
            writer.abandon()
            raise

    def _compute(self, writer: FeatureWriter) -> list[Tensor]:
        """Compute and write this rank's share of the rows, and return its labels."""
        rank, world_size = get_dist_info()
        share = range(self._rows * rank // world_size, self._rows * (rank + 1) // world_size)
        found: list[Tensor] = []
        with progress('features of the training images', len(share)) as advance:
            for batch in self._batches(share):
                data = self._preprocess(batch)
                features = map(self._kept, self.stage.extract(data['inputs']))
                labels, scores = self._labels(batch, data)
                writer.write(share.start + len(found), [*features, *scores])
                found += labels
                advance(len(labels))
        writer.flush()
        return found

    def _batches(self, share: range) -> Iterator[dict]:
        """Yield the images of some rows, in order, in batches of the size of training."""
        loader = self.loader
        size = getattr(loader.batch_sampler, 'batch_size', loader.batch_size)
        batches = DataLoader(
            SampleReader(loader.dataset, loader.tries),
            batch_sampler=[self._draws(share[at : at + size]) for at in range(0, len(share), size)],
            num_workers=loader.num_workers,
            collate_fn=TolerantCollate(loader.collate_fn) if loader.tries else loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
        )
        for batch in batches:
            if isinstance(batch, FaultyBatch):
                loader.on_faults(batch.faults)
                batch = batch.batch
            yield batch

    def _draws(self, rows: Sequence[int]) -> Draws:
        indices = [row % len(self.loader.dataset) for row in rows]
        return Draws(indices, rows, stem_from(self.loader.seed, self.loader.stream, 0))

    def _read(self, indices: Sequence[int], view: int) -> dict:
        reader = SampleReader(self.loader.dataset, self.loader.tries)
        first = view * len(self.loader.dataset)
        samples = [reader[draw] for draw in self._draws([index + first for index in indices])]
        batch = TolerantCollate(self.loader.collate_fn)(samples)
        return batch.batch if isinstance(batch, FaultyBatch) else batch

    def _preprocess(self, batch: dict) -> dict:
        """As in training, but without batch augmentations, which mix images."""
        preprocessor = self.model.data_preprocessor
        augments = vars(preprocessor).get('batch_augments')
        try:
            if augments is not None:
                preprocessor.batch_augments = None
            data = preprocessor(batch, True)
        finally:
            if augments is not None:
                preprocessor.batch_augments = augments
        images = data['inputs']
        if images.dim() == 4 and images.device.type == 'cpu':
            # Convolutions are as fast or faster on a CPU with the channels innermost.
            data = dict(data, inputs=images.contiguous(memory_format=torch.channels_last))
        return data

    def _labels(self, batch: dict, data: dict) -> tuple[list[Tensor], list[Tensor]]:
        """Class indices of each image, (number,), and at most one tensor of scores, (N, K)."""
        samples = data['data_samples'] or []
        num_classes = getattr(getattr(self.model, 'head', None), 'num_classes', None)
        for name, sample in zip(image_names(batch), samples):
            _check_sample(sample, name, num_classes)
        none = torch.zeros(0, dtype=torch.long)
        labels = [sample.get('gt_label', none).cpu() for sample in samples]
        if not samples or 'gt_score' not in samples[0]:
            return labels, []
        # One-hot scores are integers until mixup, which is left out, makes real numbers of them.
        return labels, [torch.stack([sample.gt_score for sample in samples]).float().cpu()]

    def _kept(self, features: Tensor) -> Tensor:
        dtype = features.dtype
        if self.dtype is not None and features.is_floating_point():
            dtype = getattr(torch, self.dtype)
        return features.detach().to('cpu', dtype)


def _check_sample(sample: DataSample, name: str, num_classes: Any) -> None:
    """Check that a sample has labels of the head's classes and nothing else that a loss reads.

    Raises:
        ValueError: If it hasn't.
    """
    other = sorted(set(sample.keys()) - {'gt_label', 'gt_score'})
    if other:
        raise ValueError(
            'cached features keep the labels of classification (gt_label, gt_score), and the '
            f'data sample of {name} has {", ".join(other)}: use feature_extraction, which caches '
            'nothing'
        )
    if not sample.keys():
        raise ValueError(
            f'{name} has no label: features are cached for training with labels, give '
            'train_dataloader.dataset some (with_label=True)'
        )
    label = sample.get('gt_label')
    if label is None or not isinstance(num_classes, int) or not len(label):
        return
    if not 0 <= int(label.min()) <= int(label.max()) < num_classes:
        raise ValueError(
            f'label {label.tolist()} of {name} is out of range: the head has {num_classes} '
            f'classes, 0 to {num_classes - 1}. Correct the annotation, or set '
            'model.head.num_classes'
        )


def _settings(module: nn.Module) -> tuple:
    """Describe what a module computes beside its weights: class and public attributes."""
    hidden = ('training', 'batch_augments', 'init_cfg')
    plain = {k: v for k, v in vars(module).items() if k[0] != '_' and k not in hidden}
    return type(module), plain


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    return len(one) == len(other) and all(map(_equal, one, other))
