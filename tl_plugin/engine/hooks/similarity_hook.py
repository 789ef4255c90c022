"""Measures during training how alike the model and the source model are, layer by layer."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from PIL import Image
from torch.utils.data import DataLoader

from tl_plugin.evaluation.metrics import add_metrics
from tl_plugin.evaluation.model_outputs import ModelOutputs, collect_outputs, spread_loader
from tl_plugin.evaluation.predictions import SOURCE, domain_loader
from tl_plugin.evaluation.similarity import compare
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.reliability.fault_tolerance import attempt
from tl_plugin.reliability.files import write_json, write_whole
from tl_plugin.reporting.plots import plot_similarity
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked

from ..layers import LayerOutputs
from ..layers.selection import LayerSpec

_KEY = 'similarity'


@HOOKS.register_module()
class SimilarityHook(Hook):
    """Compares the model with the source model on held-out images of every validated domain.

    Logged at validations, as ``similarity/<domain>/<name>``: ``cka/<depth>``, debiased linear CKA
    of a layer's output (:func:`tl_plugin.functional.minibatch_cka`); ``cosine``, the mean cosine of
    an image's features; ``flips``, the percentage of images whose predicted class differs, and of
    those with labels the percentages ``gained`` and ``lost``; ``drift``, how far the centres of
    classes have moved. At the end ``similarity.json`` and ``similarity.png`` lie in the work
    folder: layers over time.

    The source model is looked at once, before training; of it matrices of batches by batches are
    kept, and one vector an image. They are in the checkpoint, so that a resumed run compares with
    the same. Each measurement costs a forward pass of ``max_images`` images a domain on every
    process; the log says how many seconds that took.

    Args:
        max_images: Of each domain's validation images, evenly spread over them. Defaults to 256.
        interval: Measure at every `interval`-th validation. Defaults to 1.
        layers: Depths that are compared: ``':-1'``, ``'0:4'``, ``[2, 5]``; the head has none.
            Defaults to None, all, but no more than ``max_layers`` spread evenly.
        max_layers: Defaults to 16.
        batch_size: Images in a forward pass, 4 at least; it costs memory and changes CKA's variance
            alone. Defaults to 32.

    Raises:
        ValueError: If an argument is out of its range, the run validates nothing, or the checkpoint
            to resume from remembers no source model.
    """

    # Before EMAHook takes the averaged weights away, and before the logger.
    priority = 'ABOVE_NORMAL'

    @checked
    def __init__(
        self,
        max_images: int = 256,
        interval: int = 1,
        layers: LayerSpec | None = None,
        max_layers: int = 16,
        batch_size: int = 32,
    ) -> None:
        for name, value, least in (
            ('max_images', max_images, 4),
            ('interval', interval, 1),
            ('max_layers', max_layers, 1),
            ('batch_size', batch_size, 4),
        ):
            if value < least:
                raise ValueError(f'SimilarityHook: {name} must be at least {least}, got {value}')
        self.max_images = max_images
        self.interval = interval
        self.layers = layers
        self.max_layers = max_layers
        self.batch_size = batch_size
        self.records: list[dict] = []
        self._source: dict[str, ModelOutputs] = {}
        self._validations = 0

    def before_train(self, runner: Runner) -> None:
        """Collect the source model's outputs, or load those from when the run began."""
        names = list(getattr(runner.val_loop, 'domains', None) or [SOURCE])
        self._loaders = {name: self._loader(runner, name) for name in names}
        model = unwrap(runner.model)
        max_layers = self.max_layers if self.layers is None else None
        self._outputs = LayerOutputs(model, self.layers, max_layers)
        if runner.iter and not self._source:
            raise ValueError(
                'This checkpoint remembers nothing of its source model, because its run had no '
                'SimilarityHook: go on without it, or start a new run with load_from.'
            )
        if not runner.iter:
            self.records, self._validations = [], 0
            began = time.perf_counter()
            self._source = self._collect(model)
            images = ' + '.join(
                f'{len(loader.dataset)} {name}' for name, loader in self._loaders.items()
            )
            print_log(
                f'Similarity: {images} images and {len(self._outputs.modules)} layers; a '
                f'measurement takes about {time.perf_counter() - began:.1f} s.',
                logger='current',
            )

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Measure and log, where it is due."""
        if not self._source:
            return  # a validation outside of training
        self._validations += 1
        if self._validations % self.interval:
            return
        now = self._collect(unwrap(runner.model))
        found = {name: compare(source, now[name]) for name, source in self._source.items()}
        width = len(str(max(self._outputs.modules)))
        scalars = {
            f'similarity/{domain}/{name}': value
            for domain, each in found.items()
            for name, value in each.scalars(width).items()
        }
        add_metrics(runner, metrics, scalars, 'val')
        step = runner.epoch if isinstance(runner.train_loop, EpochBasedTrainLoop) else runner.iter
        record = {'step': step, **{name: value._asdict() for name, value in found.items()}}
        # A resumed run may validate once more where it was interrupted.
        self.records = [old for old in self.records if old['step'] != step] + [record]

    def adds_metrics(self, names: Sequence[str]) -> list[str]:
        """Return the pattern of names that it adds to the metrics of a validation."""
        return ['similarity/*']

    def after_train(self, runner: Runner) -> None:
        """Write numbers and picture; where that fails, warn: the model is trained."""
        if not self.records or not is_main_process():
            return
        layers = {depth: f'{depth} {names[-1]}' for depth, names in self._outputs.modules.items()}
        unit = 'epoch' if isinstance(runner.train_loop, EpochBasedTrainLoop) else 'iteration'
        folder = Path(runner.work_dir)
        content = dict(unit=unit, layers=layers, records=self.records)
        attempt('similarity.json', lambda: write_json(folder / 'similarity.json', content))
        attempt('similarity.png', lambda: self._draw(runner, layers, unit))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the source model's outputs and all measurements in the checkpoint."""
        save_hook_state(
            checkpoint,
            _KEY,
            dict(
                source={name: outputs._asdict() for name, outputs in self._source.items()},
                records=self.records,
                validations=self._validations,
            ),
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load them from the checkpoint of a resumed run."""
        saved = saved_hook_state(checkpoint, _KEY)
        if saved is not None and resumes(runner):
            self._source = {name: _on_cpu(outputs) for name, outputs in saved['source'].items()}
            self.records, self._validations = list(saved['records']), saved['validations']

    def _loader(self, runner: Runner, domain: str) -> DataLoader:
        # Every process looks at the same images: so each has what a resumed run needs.
        loader = domain_loader(runner, domain)
        return spread_loader(loader, self.max_images, self.batch_size, domain)

    def _collect(self, model: Any) -> dict[str, ModelOutputs]:
        return collect_outputs(model, self._loaders, self._outputs)

    def _draw(self, runner: Runner, layers: dict[int, str], unit: str) -> None:
        picture = plot_similarity(self.records, layers, unit)
        write_whole(Path(runner.work_dir, 'similarity.png'), picture)
        image = np.asarray(Image.open(io.BytesIO(picture)).convert('RGB'))
        runner.visualizer.add_image('similarity', image, step=runner.iter)


def _on_cpu(outputs: dict) -> ModelOutputs:
    grams = {depth: [gram.cpu() for gram in found] for depth, found in outputs['grams'].items()}
    tensors = {name: outputs[name].cpu() for name in ('features', 'predictions', 'labels')}
    return ModelOutputs(grams, **tensors)
