"""Collect what a model outputs for the same held-out images, to compare models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Subset

from tl_plugin.functional import linear_gram
from tl_plugin.stack.model_wrappers import evaluating
from tl_plugin.stack.protocol import TARGET, announce_domain

from .predictions import predicted_labels

if TYPE_CHECKING:
    from tl_plugin.engine.layers import LayerOutputs


class ModelOutputs(NamedTuple):
    """What a model outputs for some images.

    Attributes:
        grams: Depth -> Gram matrices of the layer's output, one a batch.
        features: ``head.pre_logits``, (N, D).
        predictions: Predicted classes, (N,).
        labels: True classes, (N,), -1 where there is none.
    """

    grams: dict[int, list[Tensor]]
    features: Tensor
    predictions: Tensor
    labels: Tensor


def spread_loader(loader: DataLoader, max_images: int, batch_size: int, name: str) -> DataLoader:
    """Build a loader of some images of another one, evenly spread over its data set, in order.

    Args:
        loader: Of all images.
        max_images: Number of images at most.
        batch_size: Images a batch.
        name: Whose images they are, for the message.

    Raises:
        ValueError: If there are fewer than four, too few to compare layers by.
    """
    total = len(loader.dataset)
    count = min(max_images, total)
    if count < 4:
        raise ValueError(f"comparing layers needs at least 4 images of '{name}', got {total}")
    indices = np.linspace(0, total - 1, count).round().astype(int).tolist()
    return DataLoader(Subset(loader.dataset, indices), batch_size, collate_fn=loader.collate_fn)


@torch.no_grad()
def collect_outputs(
    model: Any, loaders: Mapping[str, DataLoader], outputs: LayerOutputs
) -> dict[str, ModelOutputs]:
    """Collect what a model outputs for images, in eval mode.

    Args:
        model: A classifier without its wrapper.
        loaders: Domain -> its images.
        outputs: The layers that are read.

    Returns:
        Domain -> the outputs on its images.
    """
    found = {}
    with evaluating(model):
        for name, loader in loaders.items():
            announce_domain(model, name)
            found[name] = _outputs_on(model, loader, outputs)
        announce_domain(model, TARGET)
    return found


def _outputs_on(model: Any, loader: DataLoader, layers: LayerOutputs) -> ModelOutputs:
    grams = {depth: [] for depth in layers.modules}
    features, predictions, labels = [], [], []
    for batch in loader:
        batch = model.data_preprocessor(batch, False)
        with layers.read(model) as outputs:
            feats = model.extract_feat(batch['inputs'])
        for depth, output in outputs.items():
            grams[depth].append(linear_gram(output).cpu())
        leaves = tree_flatten(model.head.pre_logits(feats))[0]
        features.append(torch.cat([leaf.flatten(1).float().cpu() for leaf in leaves], dim=1))
        predictions += predicted_labels(model.head.predict(feats))
        labels += [_label(sample) for sample in batch['data_samples']]
    return ModelOutputs(
        {depth: found for depth, found in grams.items() if found},
        torch.cat(features),
        torch.tensor(predictions),
        torch.tensor(labels),
    )


def _label(sample: Any) -> int:
    label = sample.get('gt_label')
    return int(label) if label is not None and label.numel() == 1 else -1
