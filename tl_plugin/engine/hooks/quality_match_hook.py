"""Trains on source images that are degraded until they look as the target's."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any, Sequence

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, TRANSFORMS
from torch.utils.data import ConcatDataset

from tl_plugin.datasets.wrappers import inner_configs, inner_datasets, joined_datasets
from tl_plugin.evaluation.predictions import domain_loader
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.reliability.data_identity import check_inherited, check_source_and_target
from tl_plugin.reliability.files import write_whole
from tl_plugin.reliability.ranks import on_main_process
from tl_plugin.reliability.replayable_loader import build_loader
from tl_plugin.reporting.tables import make_table, table_text
from tl_plugin.stack.options import checked, type_name

from ..loops.inherit import inherit_dataloader

_KEY = 'quality_match'
_WHERE = 'custom_hooks.QualityMatchHook.target_dataloader'
#: The run's config with what was fitted in its pipeline, in the work folder.
CONFIG = 'quality_matched.py'


@HOOKS.register_module()
class QualityMatchHook(Hook):
    """Degrades the training images so that their quality is that of target images.

    Before training, the sharpness, noise, light, contrast, colour and compression of some images
    of both domains are measured, both as the validation pipeline gives them, and corruptions are
    fitted (:func:`tl_plugin.datasets.quality_matching.match_quality`). They become a
    :class:`DegradeQuality` at the end of the training pipeline. No label is read. A resumed run
    takes what was fitted from its checkpoint. ``quality_matched.json`` in the work folder says
    what was found, ``quality_matched.py`` is the run's config with it, ready to be trained again
    without this hook.

    Args:
        target_dataloader: Loader of target images; what it leaves out is inherited from
            ``val_dataloader``. Defaults to None: those of ``train_cfg.target_dataloader``, or else
            the domain ``target`` of a ``DomainValLoop``.
        max_images: Of each domain. Defaults to 48; the log says how long that took.
        prob: Part of the training images that are degraded; the others stay as they are, so that
            the source ability stays, too. Defaults to 0.8.
        corruptions: What an earlier fit found; nothing is fitted then. Defaults to None.
        sources: Which data sets of a :class:`SeveralSources` are degraded, counted from 0: not
            the labelled target images among them. Defaults to None: all training images.

    Raises:
        ValueError: If there are no target images or no validation pipeline, the target's images are
            the training's, or the training data have no such data set.
    """

    priority = 'VERY_HIGH'

    @checked
    def __init__(
        self,
        target_dataloader: dict | None = None,
        max_images: int = 48,
        prob: float = 0.8,
        corruptions: dict | None = None,
        sources: Sequence[int] | None = None,
    ) -> None:
        if max_images < 8:
            raise ValueError(f'QualityMatchHook: max_images must be at least 8, got {max_images}')
        if not 0 < prob <= 1:
            raise ValueError(f'QualityMatchHook: prob must be in (0, 1], got {prob}')
        self.target_dataloader = target_dataloader
        self.max_images = max_images
        self.prob = prob
        self.corruptions = corruptions
        self.sources = sources

    def before_train(self, runner: Runner) -> None:
        """Fit, and put what was found into the training pipeline."""
        if self.corruptions is None:
            self.corruptions = on_main_process(lambda: self._fit(runner))
        if not self.corruptions:
            print_log(
                'Quality: no corruption brings the source closer to the target: images unchanged.',
                logger='current',
            )
            return
        transform = dict(
            type='RandomApply',
            prob=self.prob,
            transforms=[dict(type='DegradeQuality', corruptions=self.corruptions)],
        )
        for dataset in inner_datasets(self._source(runner)):
            steps = dataset.pipeline.transforms
            steps.insert(len(steps) - 1, TRANSFORMS.build(copy.deepcopy(transform)))
        _forget_workers(runner.train_loop)
        on_main_process(lambda: self._write_config(runner, transform))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put what was fitted into the checkpoint."""
        save_hook_state(checkpoint, _KEY, self.corruptions)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take it from there in a run that is resumed."""
        saved = saved_hook_state(checkpoint, _KEY)
        if saved is not None and resumes(runner):
            self.corruptions = saved

    def _fit(self, runner: Runner) -> dict:
        from tl_plugin.datasets.quality_matching import match_quality

        began = time.perf_counter()
        target, steps = self._target(runner)
        to_rgb = not runner.cfg.get('data_preprocessor', {}).get('to_rgb', True)
        images = [
            _images(dataset, steps, self.max_images, rgb=to_rgb)
            for dataset in (self._source(runner), target)
        ]
        match = match_quality(*images)
        table = make_table(
            f'Quality of {len(images[0])} source and {len(images[1])} target images, medians',
            ('statistic', 'source', 'degraded source', 'target'),
            [(name, *(f'{value:.4g}' for value in row)) for name, row in match.medians.items()],
        )
        corruptions = ', '.join(
            f'{name} {options["severity"][0]:g} to {options["severity"][1]:g} '
            f'({options["prob"]:.0%})'
            for name, options in match.corruptions.items()
        )
        print_log(
            f'{table_text(table)}\nQuality: fitted {corruptions or "nothing"} in '
            f'{time.perf_counter() - began:.0f} s; distance {match.before:.3f} before, '
            f'{match.after:.3f} after.',
            logger='current',
        )
        text = json.dumps(match._asdict(), indent=2) + '\n'
        write_whole(Path(runner.work_dir, 'quality_matched.json'), text.encode())
        return match.corruptions

    def _source(self, runner: Runner) -> Any:
        """Return the training images that are degraded."""
        dataset = runner.train_dataloader.dataset
        if self.sources is None:
            return dataset
        parts = joined_datasets(dataset)
        if not self.sources or not all(0 <= index < len(parts) for index in self.sources):
            raise ValueError(
                f'QualityMatchHook: sources={list(self.sources)} of {len(parts)} data sets; the '
                f'training data are {type(dataset).__name__}, expected SeveralSources and numbers '
                'of its datasets, counted from 0'
            )
        return ConcatDataset([parts[index] for index in self.sources])

    def _target(self, runner: Runner) -> tuple[Any, Sequence]:
        """Return the target's images, and the steps that make images of both domains comparable."""
        if runner.val_loop is None:
            raise ValueError(
                'QualityMatchHook compares images as the validation pipeline gives them, and this '
                'config has no val_dataloader'
            )
        validated = domain_loader(runner).dataset
        steps = next(inner_datasets(validated)).pipeline.transforms[:-1]
        if self.target_dataloader is not None:
            loader = inherit_dataloader(runner.cfg.val_dataloader, self.target_dataloader, _WHERE)
            target = build_loader(runner, loader, 'target').dataset
            check_inherited('val_dataloader', validated, target, _WHERE)
            check_source_and_target(runner.train_dataloader.dataset, target, _WHERE)
            return target, steps
        pair = getattr(runner.train_loop.dataloader, 'target', None)
        if pair is not None:
            return pair.loader.dataset, steps
        domains = getattr(runner.val_loop, 'domains', {})
        if 'target' not in domains:
            raise ValueError(
                'QualityMatchHook needs target images: set its target_dataloader=dict('
                "dataset=...), or name a domain 'target' in val_cfg, dict(type='DomainValLoop', "
                'dataloaders=dict(target=dict(dataset=...)))'
            )
        target = domains['target'][0].dataset
        check_source_and_target(
            runner.train_dataloader.dataset, target, 'val_cfg.dataloaders.target'
        )
        return target, steps

    def _write_config(self, runner: Runner, transform: dict) -> None:
        cfg = copy.deepcopy(runner.cfg._cfg_dict.to_dict())
        data = cfg['train_dataloader']['dataset']
        if self.sources is not None:
            data = [joined_datasets(data)[index] for index in self.sources]
        for dataset in inner_configs(data):
            dataset['pipeline'].insert(len(dataset['pipeline']) - 1, transform)
        cfg['custom_hooks'] = [
            hook for hook in cfg.get('custom_hooks') or [] if type_name(hook) != type(self).__name__
        ]
        Config(cfg).dump(str(Path(runner.work_dir, CONFIG)))


def _images(dataset: Any, steps: Sequence, count: int, rgb: bool) -> list[np.ndarray]:
    """Images as the steps give them, evenly spread over a data set whatever wraps it."""
    inner = list(inner_datasets(dataset))
    kept = [each.pipeline for each in inner]
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    try:
        for each in inner:
            each.pipeline = Compose(steps)
        images = [dataset[int(index)]['img'] for index in indices]
    finally:
        for each, pipeline in zip(inner, kept):
            each.pipeline = pipeline
    colour = [image.ndim == 3 and image.shape[2] == 3 and not rgb for image in images]
    return [
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if swap else image
        for image, swap in zip(images, colour)
    ]


def _forget_workers(loop: Any) -> None:
    """Worker processes that mmengine's loop by iteration has started know the old pipeline."""
    iterator = getattr(loop, 'dataloader_iterator', None)
    if type(iterator).__name__ == '_InfiniteDataloaderIterator':
        loop.dataloader_iterator = type(iterator)(loop.dataloader)
