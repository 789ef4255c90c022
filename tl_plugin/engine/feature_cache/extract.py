"""Computes the features of a training set once, or finds those that were computed before."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import mmengine
import mmpretrain
import numpy as np
import torch
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tl_plugin.datasets.wrappers import inner_datasets
from tl_plugin.reliability.bad_images import FaultyBatch, TolerantCollate
from tl_plugin.reliability.batches import image_names
from tl_plugin.reliability.fingerprint import files_fingerprint, fingerprint, weights_fingerprint
from tl_plugin.reliability.ranks import on_all_ranks, on_main_process
from tl_plugin.reliability.replayable_loader import Draw, ReplayableLoader, SampleReader

from .cut import PROBE, find_cut
from .rows import SCORE, check_labels, labels_of
from .store import FeatureStore, FeatureWriter, Leaf, known_caches, megabytes


class Extraction:
    """Features of one model, for all images of one loader.

    Args:
        model: The unwrapped model, in the modes of training.
        loader: Of the images.
        context: Makes the context of a training step, for mixed precision.
        root: The folder of all caches.
        views: How many times each image goes through the pipeline.
        dtype: In which features are kept; None as they are computed.

    Attributes:
        cut: Where the forward pass is cut.
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
        self.model, self.loader, self.context = model, loader, context
        self.root, self.views, self.dtype = Path(root), views, dtype
        count = len(loader.dataset)
        self._probe = np.linspace(0, count - 1, PROBE[1]).astype(int).tolist()
        self._num_classes = getattr(getattr(model, 'head', None), 'num_classes', None)
        batch = self._read(self._probe, 0)
        data = self._preprocessed(batch)
        scores = self._labels(batch, data)[1]
        self.cut = find_cut(model, data, context)
        self._features = [*map(self._kept, self.cut.features)]
        columns = [*self._features, *([] if scores is None else [scores])]
        self._layout = [Leaf.of(batch) for batch in columns]
        self._random = self._is_random()

    def store(self) -> FeatureStore:
        """The cache: one of before if it is of these very features, else a new one."""
        key = on_main_process(self._key)
        name = fingerprint(key)
        place = self.root / name
        store = self._usable(place)
        if not all(all_gather_object(store is not None)):
            self._say_why(key)
            self._write(FeatureWriter(self.root, key, name, self._rows, self._layout))
            store = FeatureStore(place)
        else:
            print_log(f'Features of {self._rows:,} images were there in {place}.', 'current')
        return store

    @property
    def _rows(self) -> int:
        return len(self.loader.dataset) * self.views

    def _key(self) -> dict[str, str]:
        dataset, parts = self.loader.dataset, self.cut.covered
        pipelines = [getattr(inner, 'pipeline', None) for inner in inner_datasets(dataset)]
        return dict(
            weights=weights_fingerprint(self.model, parts),
            network=fingerprint([(n, *_described(self.model.get_submodule(n))) for n in parts]),
            pipeline=fingerprint(pipelines, self.loader.collate_fn),
            data=fingerprint(dataset, files_fingerprint(dataset)),
            preprocessor=fingerprint(_settings(self.model.data_preprocessor)),
            features=fingerprint([tuple(leaf) for leaf in self._layout], self._precision()),
            views=str(self.views),
            seed=str(self.loader.seed) if self._random else 'any',
            versions=f'torch {torch.__version__}, mmpretrain {mmpretrain.__version__}, '
            f'mmengine {mmengine.__version__}',
        )

    def _precision(self) -> str:
        """What autocast makes of a step."""
        with self.context():
            kind = _device(self.model).type
            autocast = torch.is_autocast_enabled(kind)
            return str(torch.get_autocast_dtype(kind)) if autocast else 'full'

    def _is_random(self) -> bool:
        """Whether the pipeline gives other images each time; says so where that is lost."""
        first, *others = (self._read(self._probe, view)['inputs'] for view in range(9))
        found = not all(_equal(first, other) for other in others)
        if found and self.views == 1:
            print_log(
                'The training pipeline augments at random, and each image is cached in one view of '
                'it: that view is all that training sees. Cache more (train_cfg.views=8), or give '
                'train_dataloader.dataset the pipeline of the test.',
                logger='current',
                level=logging.WARNING,
            )
        return found

    def _usable(self, place: Path) -> FeatureStore | None:
        """A cache in its place, if it is whole and a few features computed anew are in it."""
        if not place.is_dir():
            return None
        try:
            store = FeatureStore(place)
        except ValueError as error:
            print_log(f'{error}; it is made anew.', logger='current', level=logging.WARNING)
            return None
        for leaf, features in zip(store.leaves, self._features):
            known, now = leaf[self._probe].float(), features.float()
            if not torch.allclose(known, now, rtol=1e-2, atol=1e-2 * float(now.abs().max())):
                print_log(
                    f'The features in {place} are not those of this model, in a way that its key '
                    'does not tell: they are made anew.',
                    logger='current',
                    level=logging.WARNING,
                )
                return None
        return store

    def _say_why(self, key: dict[str, str]) -> None:
        for name, known in known_caches(self.root).items():
            parts = [part for part in key if key[part] != known.get(part)]
            if parts:
                print_log(
                    f'The features in {self.root / name} are of another run, they differ in '
                    f'{", ".join(parts)}.',
                    logger='current',
                )

    def _write(self, writer: FeatureWriter) -> None:
        print_log(
            f'Features of {self._rows:,} images are computed once, {megabytes(writer.nbytes)} in '
            f'{writer.place}: {", ".join(map(str, self._layout))} each.',
            logger='current',
        )
        writer.folder = on_main_process(writer.create)
        try:
            labels = on_all_ranks(lambda: self._compute(writer))
            on_main_process(lambda: writer.finish(*_joined(labels)))
        except BaseException:
            writer.abandon()
            raise

    def _compute(self, writer: FeatureWriter) -> list[Tensor]:
        """Computes and writes this rank's share of the rows, and returns its labels."""
        rank, world_size = get_dist_info()
        share = range(self._rows * rank // world_size, self._rows * (rank + 1) // world_size)
        found: list[Tensor] = []
        done, start, told = share.start, time.perf_counter(), time.perf_counter()
        for batch in self._batches(share):
            data = self._preprocessed(batch)
            with self.context():
                features = [*map(self._kept, self.cut.run(data))]
            labels, scores = self._labels(batch, data)
            writer.write(done, [*features, *([] if scores is None else [scores.cpu()])])
            found += labels
            done += len(labels)
            if time.perf_counter() - told > 10 or done == share.stop:
                told = time.perf_counter()
                rate = (done - share.start) / (told - start)
                left = (share.stop - done) / rate
                print_log(
                    f'Features: {done - share.start:,} of {len(share):,} images on this rank, '
                    f'{rate:,.0f} a second, {left:,.0f} s left.',
                    logger='current',
                )
        writer.flush()
        return found

    def _labels(self, batch: dict, data: dict) -> tuple[list[Tensor], Tensor | None]:
        labels, scores = labels_of(data['data_samples'])
        check_labels(labels, self._num_classes, image_names(batch))
        return labels, scores

    def _batches(self, share: range) -> Iterator[dict]:
        """The images of some rows, in order, in batches of the size of training."""
        loader = self.loader
        size = getattr(loader.batch_sampler, 'batch_size', loader.batch_size)
        draws = [self._draw(row) for row in share]
        tries = loader.tries
        batches = DataLoader(
            SampleReader(loader.dataset, tries),
            batch_sampler=[draws[at : at + size] for at in range(0, len(draws), size)],
            num_workers=loader.num_workers,
            collate_fn=TolerantCollate(loader.collate_fn) if tries else loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
        )
        for batch in batches:
            if isinstance(batch, FaultyBatch):
                loader.on_faults(batch.faults)
                batch = batch.batch
            yield batch

    def _draw(self, row: int) -> Draw:
        view, index = divmod(row, len(self.loader.dataset))
        return Draw(index, (self.loader.seed, self.loader.stream, view, index))

    def _read(self, indices: Sequence[int], view: int) -> dict:
        count = len(self.loader.dataset)
        reader = SampleReader(self.loader.dataset, self.loader.tries)
        samples = [reader[self._draw(index + view * count)] for index in indices]
        batch = TolerantCollate(self.loader.collate_fn)(samples)
        return batch.batch if isinstance(batch, FaultyBatch) else batch

    def _preprocessed(self, batch: dict) -> dict:
        """As in training, but for batch augmentations, which mix images."""
        preprocessor = self.model.data_preprocessor
        augments = vars(preprocessor).get('batch_augments')
        try:
            if augments is not None:
                preprocessor.batch_augments = None
            return _soft_labels(_channels_innermost(preprocessor(batch, True)))
        finally:
            if augments is not None:
                preprocessor.batch_augments = augments

    def _kept(self, features: Tensor) -> Tensor:
        dtype = features.dtype
        if self.dtype is not None and features.is_floating_point():
            dtype = getattr(torch, self.dtype)
        return features.detach().to('cpu', dtype)


def _soft_labels(data: dict) -> dict:
    """One-hot labels are integers until mixup, which is left out, makes real numbers of them."""
    for sample in data['data_samples'] or ():
        score = sample.get(SCORE)
        if isinstance(score, Tensor) and not score.is_floating_point():
            sample.set_gt_score(score.float())
    return data


def _described(module: nn.Module) -> tuple:
    return repr(module), sorted({type(part) for part in module.modules()}, key=str)


def _channels_innermost(data: dict) -> dict:
    """On a CPU convolutions are as fast or faster with the channels innermost."""
    images = data['inputs']
    if images.dim() != 4 or images.device.type != 'cpu':
        return data
    return dict(data, inputs=images.contiguous(memory_format=torch.channels_last))


def _settings(preprocessor: nn.Module) -> list:
    """What a data preprocessor does, apart from its batch augmentations."""
    hidden = ('batch_augments', 'training')
    plain = {k: v for k, v in vars(preprocessor).items() if k[0] != '_' and k not in hidden}
    return [type(preprocessor), plain, dict(preprocessor.named_buffers())]


def _device(model: nn.Module) -> torch.device:
    return next((value.device for value in model.parameters()), torch.device('cpu'))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    return len(one) == len(other) and all(map(_equal, one, other))


def _joined(labels: list[list[Tensor]]) -> tuple[Tensor, Tensor | None]:
    rows = [row for share in labels for row in share]
    lengths = torch.tensor([len(row) for row in rows])
    flat = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)
    return flat, None if (lengths == 1).all() else lengths
