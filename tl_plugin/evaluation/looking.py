"""Shows a model the same held-out images again and again, and keeps what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Subset

from tl_plugin.functional import linear_gram
from tl_plugin.stack.protocol import TARGET, announce_domain

from .predictions import predicted_labels
from .similarity import Seen

if TYPE_CHECKING:
    from tl_plugin.engine.layers import LayerOutputs


def spread_loader(loader: DataLoader, num_images: int, batch_size: int, name: str) -> DataLoader:
    """A loader of some images of another one, evenly spread over its data set, in order.

    Args:
        loader: Of all images.
        num_images: So many, or all where there are fewer.
        batch_size: Images a batch.
        name: Whose images they are, for the message.

    Raises:
        ValueError: If there are fewer than four, too few to compare layers by.
    """
    total = len(loader.dataset)
    count = min(num_images, total)
    if count < 4:
        raise ValueError(f"comparing layers needs at least 4 images of '{name}', got {total}")
    indices = np.linspace(0, total - 1, count).round().astype(int).tolist()
    return DataLoader(Subset(loader.dataset, indices), batch_size, collate_fn=loader.collate_fn)


@torch.no_grad()
def look(model: Any, loaders: Mapping[str, DataLoader], outputs: LayerOutputs) -> dict[str, Seen]:
    """What a model makes of images, in eval mode.

    Args:
        model: A classifier without its wrapper.
        loaders: Domain -> its images.
        outputs: The layers that are read.

    Returns:
        Domain -> what is seen there.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    seen = {}
    for name, loader in loaders.items():
        announce_domain(model, name)
        seen[name] = _look_at(model, loader, outputs)
    announce_domain(model, TARGET)
    for module, mode in modes.items():
        module.training = mode
    return seen


def _look_at(model: Any, loader: DataLoader, layers: LayerOutputs) -> Seen:
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
    return Seen(
        {depth: found for depth, found in grams.items() if found},
        torch.cat(features),
        torch.tensor(predictions),
        torch.tensor(labels),
    )


def _label(sample: Any) -> int:
    label = sample.get('gt_label')
    return int(label) if label is not None and label.numel() == 1 else -1
