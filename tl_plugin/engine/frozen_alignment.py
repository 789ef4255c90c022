"""Fit the last layer of a classifier to the target on the features of the frozen network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dist import broadcast
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tl_plugin.datasets.image_numbers import ImageNumbers
from tl_plugin.functional import FrozenAlignment, frozen_alignment
from tl_plugin.reliability.class_sets import has_several_labels, num_classes
from tl_plugin.reporting.progress import progress
from tl_plugin.stack.gather import gather_in_order
from tl_plugin.stack.model_wrappers import evaluating
from tl_plugin.stack.protocol import SOURCE, TARGET, announce_domain


class FittedLayer(NamedTuple):
    """What :func:`fit_last_layer` has found.

    Attributes:
        classifier: The linear classifier of standardized features.
        probabilities: Of the target's images, (N, K).
        numbers: The number of each of them, (N,); -1 where nobody asked for it.
    """

    classifier: FrozenAlignment
    probabilities: Tensor
    numbers: Tensor


@torch.no_grad()
def fit_last_layer(
    name: str,
    model: Any,
    source_loader: Any,
    target_loader: Any,
    mirror: bool = True,
    numbers: ImageNumbers | None = None,
    **options: Any,
) -> FittedLayer:
    """Compute the features of all images, fit, and set the last layer.

    Args:
        name: Of who asks, for the log.
        model: The classifier, without its wrapper.
        source_loader: Reads each source image once, in order.
        target_loader: Reads each target image once, in order. Labels are never read.
        mirror: Whether features are the mean over an image and its mirror image. Defaults to True.
        numbers: Of the target images. Defaults to None.
        **options: ``shares``, ``inverse_penalty`` and ``neighbours``, see
            :func:`tl_plugin.functional.frozen_alignment`.

    Returns:
        What was found.

    Raises:
        ValueError: If the head has no linear layer with a bias on ``head.pre_logits``, or a source
            image has no single label.
    """
    source, labels = _read(model, source_loader, SOURCE, mirror, _labels)

    def number(samples: Sequence[Any]) -> list[int]:
        return [-1] * len(samples) if numbers is None else numbers.of(samples, TARGET)

    target, numbered = _read(model, target_loader, TARGET, mirror, number)
    found = frozen_alignment(source, labels, target, num_classes(model), **options)
    layer = _last_linear(model, source.shape[1])
    for value, new in zip((layer.weight, layer.bias), found.linear_layer(target)):
        value.copy_(new)
        broadcast(value.data)  # libraries may differ between the ranks' machines
    _check_scores(model, layer, target_loader)
    changed = ', '.join(f'{share:.1%}' for share in found.changed) or 'no round'
    counts = found.pseudo_labels.bincount(minlength=num_classes(model)).tolist()
    print_log(
        f'{name}: rounds changed the pseudo-labels of {changed} of {len(target)} target images; '
        f'images a class {counts}.',
        logger='current',
    )
    return FittedLayer(found, layer(target).softmax(1), numbered)


def check_model(strategy: str, runner: Any, model: Any) -> None:
    """Refuse a model whose last layer can't be fitted, before all images are read.

    Args:
        strategy: Name of the overlay, for the message.
        runner: The runner.
        model: The model, without its wrapper.

    Raises:
        ValueError: If the head has no features or several labels an image, or the neck has weights
            that nobody has trained.
    """
    head = getattr(model, 'head', None)
    if not hasattr(head, 'pre_logits') or has_several_labels(head) or not num_classes(model):
        raise ValueError(
            f'{strategy} fits the last linear layer of a head such as LinearClsHead, which '
            f'gives an image one class; this model has {type(head).__name__}'
        )
    trained = runner._load_from or runner._resume
    neck = getattr(model, 'neck', None)
    fresh = neck is not None and not trained and next(neck.parameters(), None) is not None
    if fresh and not getattr(neck, 'init_cfg', None):
        raise ValueError(
            f'{strategy} first fits no layer but the last, and the {type(neck).__name__} in '
            'front of the head has random weights: set model.neck=None, or load_from to a model '
            'in which it was trained'
        )


def _read(
    model: Any,
    loader: Any,
    domain: str,
    mirror: bool,
    read_samples: Callable[[Sequence[Any]], list[int]],
) -> tuple[Tensor, Tensor]:
    """Return features of all images, in order, and what is read of their samples."""
    features, numbers = [], []
    announce_domain(model, domain)
    with evaluating(model), progress(f'features of the {domain}', len(loader)) as advance:
        for batch in loader:
            images = model.data_preprocessor(batch, False)['inputs']
            found = _features(model, images)
            if mirror:
                found = (found + _features(model, images.flip(-1))) / 2
            features.append(found.float())
            numbers += read_samples(batch['data_samples'])
            advance(1)
    announce_domain(model, TARGET)
    rows = torch.cat(features)
    known = torch.tensor(numbers, dtype=torch.long, device=rows.device)
    return tuple(gather_in_order(each, len(loader.dataset)) for each in (rows, known))


def _features(model: Any, images: Tensor) -> Tensor:
    """Return the inputs of the last layer, (N, D)."""
    leaves = tree_flatten(model.head.pre_logits(model.extract_feat(images)))[0]
    return leaves[-1]


def _labels(samples: Sequence[Any]) -> list[int]:
    return [_label(sample) for sample in samples]


def _label(sample: Any) -> int:
    label = sample.get('gt_label')
    if label is None or label.numel() != 1 or int(label) < 0:
        raise ValueError(
            f'{sample.get("img_path", "a source image")} has no single label '
            f'({label}): the source is the labelled domain, with one class an image; give '
            'unlabelled images as train_cfg.target_dataloader'
        )
    return int(label)


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
