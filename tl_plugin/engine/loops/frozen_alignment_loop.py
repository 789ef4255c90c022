"""Adapts the last layer alone, on features that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmpretrain.registry import LOOPS
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tl_plugin.functional import frozen_alignment
from tl_plugin.reliability.class_sets import has_several_labels, num_classes
from tl_plugin.reporting.progress import progress
from tl_plugin.stack.gather import gather_in_order
from tl_plugin.stack.model_wrappers import evaluating, unwrap
from tl_plugin.stack.protocol import SOURCE, TARGET, announce_domain

from .adaptation_loop import pair_loaders, target_config
from .inherit import plain_pass
from .interpolation_loop import NoTrainingLoop


@LOOPS.register_module()
class FrozenAlignmentLoop(NoTrainingLoop):
    """Fit the last layer to the target on the frozen network's features, without target labels.

    All images go through the network once, as the test's pipeline gives them, and once more
    mirrored. On their features, standardized per domain, a logistic regression learns the source's
    labels and then class-balanced pseudo-labels of the target, see
    :func:`tl_plugin.functional.frozen_alignment`. The result, with the target's standardization, is
    folded into the head's linear layer: the checkpoint is one of the config's own network, for
    target images.

    Args:
        runner: The runner.
        dataloader: The source: the config's ``train_dataloader``.
        target_dataloader: The target; what it leaves out is inherited from ``train_dataloader``.
            Its labels are never read.
        shares: Share of each predicted class that each round of pseudo-labels learns from, the
            surest first. Defaults to 20% to 100%; ``[]`` for no round.
        inverse_penalty: C of the logistic regression. Defaults to 10.
        mirror: Whether features are the mean over an image and its mirror image, which costs
            another pass. Defaults to True.
        pipeline: Transforms of the images. Defaults to None: those of ``test_dataloader``, or else
            ``val_dataloader``, or else of the training.

    Raises:
        ValueError: If there is no target, the head has no linear layer with a bias on
            ``head.pre_logits``, the neck has weights that nobody has trained, or an argument is out
            of its range.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        target_dataloader: Any = None,
        shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
        inverse_penalty: float = 10.0,
        mirror: bool = True,
        pipeline: list | None = None,
    ) -> None:
        target = target_config(dataloader, target_dataloader)
        source, target = (
            plain_pass(runner.cfg, loader, pipeline) if isinstance(loader, dict) else loader
            for loader in (dataloader, target)
        )
        model = unwrap(runner.model)
        _check_model(runner, model)
        super().__init__(runner, pair_loaders(runner, source, target))
        self.options = dict(shares=tuple(shares), inverse_penalty=inverse_penalty)
        self.mirror = mirror

    @torch.no_grad()
    def change(self, model: Any) -> None:
        """Compute the features, fit, and set the last layer."""
        pair = self.dataloader
        source, labels = self._read(model, pair.source, SOURCE)
        target, _ = self._read(model, pair.target.loader, TARGET)
        found = frozen_alignment(source, labels, target, num_classes(model), **self.options)
        layer = _last_linear(model, source.shape[1])
        for value, new in zip((layer.weight, layer.bias), found.linear_layer(target)):
            value.copy_(new)
            broadcast(value.data)  # libraries may differ between the ranks' machines
        _check_scores(model, layer, pair.target.loader)
        changed = ', '.join(f'{share:.1%}' for share in found.changed) or 'no round'
        counts = found.pseudo_labels.bincount(minlength=num_classes(model)).tolist()
        print_log(
            f'FrozenAlignmentLoop: rounds changed the pseudo-labels of {changed} of {len(target)} '
            f'target images; images a class {counts}.',
            logger='current',
        )

    def _read(self, model: Any, loader: Any, domain: str) -> tuple[Tensor, Tensor]:
        """Return features and, of the source, labels of all images, in order."""
        features, labels = [], []
        announce_domain(model, domain)
        with evaluating(model), progress(f'features of the {domain}', len(loader)) as advance:
            for batch in loader:
                images = model.data_preprocessor(batch, False)['inputs']
                found = _features(model, images)
                if self.mirror:
                    found = (found + _features(model, images.flip(-1))) / 2
                features.append(found.float())
                if domain == SOURCE:
                    labels += [_label(sample) for sample in batch['data_samples']]
                advance(1)
        announce_domain(model, TARGET)
        rows = torch.cat(features)
        classes = torch.tensor(labels, dtype=torch.long, device=rows.device)
        count = len(loader.dataset)
        return gather_in_order(rows, count), gather_in_order(classes, count) if labels else classes


def _features(model: Any, images: Tensor) -> Tensor:
    """Return the inputs of the last layer, (N, D)."""
    leaves = tree_flatten(model.head.pre_logits(model.extract_feat(images)))[0]
    return leaves[-1]


def _label(sample: Any) -> int:
    label = sample.get('gt_label')
    if label is None or label.numel() != 1 or int(label) < 0:
        raise ValueError(
            f'{sample.get("img_path", "a source image")} has no single label '
            f'({label}): the source is the labelled domain, with one class an image; give '
            'unlabelled images as train_cfg.target_dataloader'
        )
    return int(label)


def _check_model(runner: Any, model: Any) -> None:
    """Refuse what could only be found after all images have been read."""
    head = getattr(model, 'head', None)
    if not hasattr(head, 'pre_logits') or has_several_labels(head) or not num_classes(model):
        raise ValueError(
            'frozen_alignment fits the last linear layer of a head such as LinearClsHead, which '
            f'gives an image one class; this model has {type(head).__name__}'
        )
    if getattr(model.data_preprocessor, 'labelled_target', None) is not None:
        raise ValueError(
            'frozen_alignment uses no target label, and data_preprocessor.labelled_target lists '
            'some: leave it out, or take feature_extraction or joint training, which learn them'
        )
    unused = [*getattr(model, 'alignments', ()), *getattr(model, 'regularizers', ())]
    if unused:
        raise ValueError(
            f'frozen_alignment takes no training step, so that {", ".join(unused)} would do '
            'nothing: leave them out'
        )
    trained = runner._load_from or runner._resume
    neck = getattr(model, 'neck', None)
    fresh = neck is not None and not trained and next(neck.parameters(), None) is not None
    if fresh and not getattr(neck, 'init_cfg', None):
        raise ValueError(
            f'frozen_alignment trains no layer but the last, and the {type(neck).__name__} in '
            'front of the head has random weights: set model.neck=None, or load_from to a model '
            'in which it was trained'
        )


def _last_linear(model: Any, width: int) -> nn.Linear:
    """Return the linear layer from features to scores.

    Raises:
        ValueError: If the head has none, with a bias.
    """
    found = [
        layer
        for layer in model.head.modules()
        if isinstance(layer, nn.Linear)
        and (layer.in_features, layer.out_features) == (width, num_classes(model))
        and layer.bias is not None
    ]
    if not found:
        raise ValueError(
            f'frozen_alignment needs a linear layer with a bias, {width} to {num_classes(model)}, '
            f'at the end of the head, and {type(model.head).__name__} has none: use LinearClsHead '
            'or VisionTransformerClsHead'
        )
    return found[-1]


def _check_scores(model: Any, layer: nn.Linear, loader: Any) -> None:
    """Check that the head's scores are what its linear layer gives.

    Raises:
        ValueError: If they are not, as where a head measures angles.
    """
    batch = next(iter(loader))
    with evaluating(model):
        feats = model.extract_feat(model.data_preprocessor(batch, False)['inputs'])
        features = tree_flatten(model.head.pre_logits(feats))[0][-1]
        scores = tree_flatten(model.head(feats))[0][-1]
    if not torch.allclose(scores, layer(features), rtol=1e-3, atol=1e-3):
        raise ValueError(
            f'{type(model.head).__name__} scores classes otherwise than by its linear layer: '
            'frozen_alignment needs a head such as LinearClsHead'
        )
