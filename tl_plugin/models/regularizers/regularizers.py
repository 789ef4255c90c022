from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from tl_plugin.engine.layers import LayerMap
from tl_plugin.engine.layers.dry_run import detached_copy

from ..features import take_rows
from ..joint_batch import SOURCE, TARGET, JointBatch
from ..loss_dict import LossDict
from .base import ModelView, Regularizer

Maps = dict


class SourceModel:
    """A frozen copy of a classifier in eval mode, without its losses and its teacher.

    It isn't a module, so that no walk over parameters and buffers finds it: neither optimizer nor
    ``DistributedDataParallel``, which would broadcast it, nor ``EMAHook``, which pairs the buffers
    of two models by their order. It isn't in ``state_dict``, either.

    Args:
        classifier: An :class:`AdaptationClassifier`. It is copied and stays untouched.
        state: Weights and buffers to take instead of the classifier's. Defaults to None.

    Raises:
        RuntimeError: If ``state`` doesn't fit the classifier.
    """

    def __init__(self, classifier: nn.Module, state: dict[str, Tensor] | None = None) -> None:
        # The source's batch norm statistics are part of what the source model computes.
        unused = set(classifier.training_only) - {'dsbn'}
        memo = {
            id(part): ModuleDict() for name, part in classifier.named_children() if name in unused
        }
        self.classifier = detached_copy(classifier, memo)
        self.classifier.requires_grad_(False)
        if state is not None:
            self.classifier.load_state_dict(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> SourceModel:
        return self  # it never changes, so that copies of the classifier share it

    def state(self) -> dict[str, Tensor]:
        """Return weights and buffers by name, on the CPU, for a checkpoint."""
        return {name: value.cpu() for name, value in self.classifier.state_dict().items()}


class Regularizers(LossDict):
    """All regularizers of a classifier, and the source model that they compare with.

    Args:
        configs: Name -> config of a :class:`Regularizer`; None switches one off.
        taken: Names that other losses have.

    Raises:
        ValueError: If a name can't be one.
        TypeError: If one is no regularizer.
    """

    def __init__(self, configs: dict[str, dict | None], taken: tuple[str, ...] = ()) -> None:
        super().__init__('model.regularizers', configs, Regularizer, taken)
        self.source_model: SourceModel | None = None

    @property
    def needs_source_model(self) -> bool:
        """Whether any of them compares with the source model."""
        return any(regularizer.needs_source_model for regularizer in self.values())

    def remember(self, classifier: nn.Module, state: dict[str, Tensor] | None = None) -> None:
        """Keep a copy of the classifier as the source model.

        Args:
            classifier: The classifier whose regularizers these are.
            state: What :meth:`source_state` returned in the run that is resumed. Defaults to None.
        """
        if self.needs_source_model:
            self.source_model = SourceModel(classifier, state)
        for regularizer in self.values():
            regularizer.prepare(classifier)

    def source_state(self) -> dict[str, Tensor] | None:
        """Return the weights of the source model, None where no regularizer needs it."""
        return None if self.source_model is None else self.source_model.state()

    def check_domains(self, domains: Collection[str]) -> None:
        """Refuse batches without the images that a regularizer looks at.

        Args:
            domains: Those of which each batch has images.

        Raises:
            ValueError: If there is such a regularizer.
        """
        for name, regularizer in self.items():
            wanted = {'both': (SOURCE, TARGET)}.get(regularizer.images, (regularizer.images,))
            missing = [domain for domain in wanted if domain not in domains]
            if not missing or not regularizer.reads_images:
                continue
            fix = {
                TARGET: "adapt with train_cfg = dict(type='AdaptationTrainLoop', ...), or set "
                f"model.regularizers.{name}.images='source'",
                SOURCE: 'training without a source has none; set '
                f"model.regularizers.{name}.images='target'",
            }[missing[0]]
            raise ValueError(
                f'the regularizer {name} with images={regularizer.images!r} needs {missing[0]} '
                f'images and this batch has none: {fix}'
            )

    @contextmanager
    def reading(self, classifier: nn.Module) -> Iterator[Maps]:
        """Record the outputs of the layers that regularizers name, in each pass in the context.

        Args:
            classifier: The classifier, or the source model's.

        Yields:
            Name of a regularizer -> depth -> output.
        """
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(regularizer.outputs.read(classifier))
                for name, regularizer in self.items()
                if regularizer.outputs is not None
            }

    def forward(
        self, classifier: nn.Module, inputs: Tensor, feats: Any, maps: Maps, batch: JointBatch
    ) -> dict[str, Tensor]:
        """Return the losses of one batch, weighted.

        Args:
            classifier: The classifier that trains.
            inputs: Its images.
            feats: What its ``extract_feat`` returned for them.
            maps: What :meth:`reading` recorded.
            batch: Its data samples.

        Returns:
            ``loss_<name>`` of each regularizer, 0-d.

        Raises:
            ValueError: If :meth:`remember` was not called, or a domain is missing.
        """
        if not self:
            return {}
        if self.needs_source_model and self.source_model is None:
            raise ValueError(
                f'the regularizers ({", ".join(self)}) need the model as it was when the run began:'
                " add dict(type='SourceModelHook') to custom_hooks, as the overlays do"
            )
        weights = _weights(classifier)
        losses = {}
        for images in dict.fromkeys(regularizer.images for regularizer in self.values()):
            members = {name: each for name, each in self.items() if each.images == images}
            kept = _rows(images, batch.rows)
            adapted_feats = take_rows(feats, kept, len(inputs))
            adapted = _view(classifier, weights, adapted_feats, members, batch[kept])
            source, source_maps = self._source_view(inputs[kept], members)
            for name, regularizer in members.items():
                if name in maps:
                    _check_maps(maps[name], name, regularizer, classifier)
                loss = regularizer(
                    _with_maps(source, source_maps.get(name)),
                    _with_maps(adapted, take_rows(maps.get(name), kept, len(inputs))),
                )
                losses[f'loss_{name}'] = regularizer.loss_weight * loss
        return {f'loss_{name}': losses[f'loss_{name}'] for name in self}

    def _source_view(
        self, inputs: Tensor, members: dict[str, Regularizer]
    ) -> tuple[ModelView | None, Maps]:
        """Run the source model once for all regularizers that read the same images."""
        members = {name: each for name, each in members.items() if each.needs_source_model}
        if not members:
            return None, {}
        classifier = self.source_model.classifier
        if not any(regularizer.reads_images for regularizer in members.values()):
            return ModelView(_weights(classifier)), {}
        with torch.no_grad(), self.reading(classifier) as maps:
            feats = classifier.extract_feat(inputs)
            return _view(classifier, _weights(classifier), feats, members), maps


def _weights(classifier: nn.Module) -> dict[str, Tensor]:
    unused = LayerMap.training_only(classifier)
    named = classifier.named_parameters()
    return {name: value for name, value in named if not name.startswith(unused)}


def _rows(images: str, rows: dict[str, slice]) -> slice:
    if images == 'both' and SOURCE in rows and TARGET in rows:
        return slice(rows[SOURCE].start, rows[TARGET].stop)
    # A regularizer that reads weights alone needs no images.
    return rows.get(images, slice(0, 0))


def _view(
    classifier: nn.Module,
    weights: dict[str, Tensor],
    feats: Any,
    members: dict[str, Regularizer],
    samples: Sequence[Any] | None = None,
) -> ModelView:
    fields = {field for regularizer in members.values() for field in regularizer.reads}
    return ModelView(
        weights,
        features=classifier.features_of(feats) if 'features' in fields else None,
        logits=classifier.logits_of(feats) if 'logits' in fields else None,
        samples=samples if 'samples' in fields else None,
    )


def _check_maps(
    maps: dict[int, Tensor], name: str, regularizer: Regularizer, classifier: nn.Module
) -> None:
    for depth, modules in regularizer.outputs.modules.items():
        trains = any(
            value.requires_grad
            for module in modules
            for value in classifier.get_submodule(module).parameters()
        )
        if depth not in maps:
            what = 'did not run in this forward pass'
        elif trains and torch.is_grad_enabled() and not maps[depth].requires_grad:
            what = 'lies within activation checkpointing, where outputs have no gradient'
        else:
            continue
        raise ValueError(
            f'the layer of depth {depth} ({", ".join(modules)}) {what}: name other layers in '
            f'model.regularizers.{name}.layers'
        )


def _with_maps(view: ModelView | None, maps: dict[int, Tensor] | None) -> ModelView | None:
    if view is None or maps is None:
        return view
    return view._replace(maps=[maps[depth] for depth in sorted(maps)])
