"""What a model outputs on the source's held-out images, as they are and degraded: a reference."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Subset

from tl_plugin.datasets.degrade_quality import CORRUPTIONS, MAX_SEVERITY, degrade_image
from tl_plugin.stack.model_wrappers import evaluating, unwrap
from tl_plugin.stack.protocol import SOURCE, TARGET, announce_domain

#: Images at a time, those that a reference is made of, and those that are degraded.
BATCH_SIZE, MAX_IMAGES, MAX_DEGRADED = 32, 500, 100
#: Probabilities of zero have no logarithm.
LEAST_PROBABILITY = 1e-12
#: How often all corruptions are drawn together, each at its own severity.
MIXTURES = 6


class Outputs(NamedTuple):
    """What a model outputs for some images.

    Attributes:
        log_probabilities: (N, K).
        labels: True classes, (N,), -1 where there is none or where nobody may know it.
        features: Inputs of the last layer, (N, D); (N, 0) where they weren't kept.
    """

    log_probabilities: Tensor
    labels: Tensor
    features: Tensor

    def labelled(self) -> Outputs:
        """Return those of the images that have a label."""
        known = self.labels >= 0
        return Outputs(*(rows[known] for rows in self))

    def accuracy(self) -> float:
        """Return the share of the labelled images that are right."""
        right = self.log_probabilities.argmax(1) == self.labels
        return float(right[self.labels >= 0].float().mean())


@dataclass(frozen=True)
class SourceReference:
    """A model's outputs on held-out source images, and on degraded copies of them (a meta-set).

    Deng and Zheng, "Are Labels Always Necessary for Classifier Accuracy Evaluation?", CVPR 2021,
    arXiv 2007.02915. It holds no image.

    Args:
        source: On the images as they are.
        degraded: Degradation -> on the degraded images.
    """

    source: Outputs
    degraded: Mapping[str, Outputs]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays, to be kept in a file; :meth:`from_arrays` reads them."""
        sets = {'source': self.source, **{f'degraded.{k}': v for k, v in self.degraded.items()}}
        return {
            f'{name}.{field}': getattr(outputs, field).numpy()
            for name, outputs in sets.items()
            for field in Outputs._fields
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SourceReference:
        """Read what :meth:`arrays` gave; other arrays are left alone."""
        prefixes = [name.rpartition('.')[0] for name in arrays if name.endswith('.labels')]
        found = {prefix: outputs_from(arrays, prefix) for prefix in prefixes}
        degraded = {
            name.partition('.')[2]: outputs
            for name, outputs in found.items()
            if name.startswith('degraded.')
        }
        return cls(found['source'], degraded)


def as_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a ``.npz`` file."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def outputs_of(probabilities: np.ndarray, labels: np.ndarray) -> Outputs:
    """Return the outputs of a classifier that isn't a network.

    Args:
        probabilities: (N, K), rows add up to 1.
        labels: True classes, (N,).
    """
    rows = torch.from_numpy(np.asarray(probabilities))
    return Outputs(
        _logarithm(rows), torch.from_numpy(np.asarray(labels)), torch.empty(len(rows), 0)
    )


def outputs_from(arrays: Mapping[str, np.ndarray], prefix: str) -> Outputs:
    """Read one set of outputs."""
    return Outputs(*(torch.from_numpy(arrays[f'{prefix}.{field}']) for field in Outputs._fields))


def degradations() -> dict[str, dict[str, float]]:
    """Return the degradations of the meta-set: name -> corruption -> severity.

    Each corruption mildly and severely, all of them together, and some of them at severities drawn
    with a fixed seed.
    """
    found = {
        f'{name} {severity}': {name: float(severity)} for name in CORRUPTIONS for severity in (2, 5)
    }
    rng = np.random.default_rng(0)
    for index in range(MIXTURES):
        chosen = [str(name) for name in rng.permutation(list(CORRUPTIONS))[:4]]
        found[f'mixture {index}'] = {n: float(rng.uniform(1, MAX_SEVERITY)) for n in chosen}
    return found


def source_reference(
    model: Any,
    loader: DataLoader,
    domain: str = SOURCE,
    max_images: int = MAX_IMAGES,
    degrade: Callable[[Sequence[Tensor]], Iterable[tuple[str, Sequence[Tensor]]]] | None = None,
) -> SourceReference:
    """Run a model on held-out source images, as they are and degraded.

    Args:
        model: A classifier with one label an image, perhaps wrapped.
        loader: Of the source's validation or test images, with labels, as the model is tested.
        domain: The domain whose statistics a model takes that keeps them by domain. The target's,
            where the target is what is predicted. Defaults to the source.
        max_images: Of them at most, evenly spread; at most 100 of them are degraded.
        degrade: Gives what :func:`degraded_copies` gives, perhaps from a file. Defaults to None,
            that function.

    Raises:
        ValueError: If fewer than two images have a label, the model gives an image several labels,
            or images aren't bytes when they reach the model's ``data_preprocessor``.
    """
    source = collect_outputs_of(model, loader, domain, max_images).labelled()
    if len(source.labels) < 2:
        raise ValueError(
            'expected accuracy is read off labelled source images that were not trained on, and '
            f'{len(source.labels)} of {len(loader.dataset)} have a label: give val_dataloader '
            'class folders or an annotation file with labels'
        )
    degraded = {}
    batches = list(_batches(loader, min(MAX_DEGRADED, max_images)))
    images = [image for batch in batches for image in batch['inputs']]
    for name, copies in (degrade or degraded_copies)(images):
        rest = iter(copies)
        changed = (
            {**batch, 'inputs': list(islice(rest, len(batch['inputs'])))} for batch in batches
        )
        outputs = _run(model, changed, domain, keep_features=False)
        degraded[name] = outputs.labelled()
    return SourceReference(source, degraded)


def degraded_copies(
    images: Sequence[Tensor], seed: int = 0
) -> Iterator[tuple[str, Sequence[Tensor]]]:
    """Degrade images in each way of the meta-set.

    Args:
        images: As they reach a model's ``data_preprocessor``, each (C, H, W), uint8.
        seed: Draws the corruptions. Defaults to 0.

    Yields:
        The name of each of :func:`degradations`, and the copies.

    Raises:
        ValueError: If images aren't bytes.
    """
    for index, (name, severities) in enumerate(degradations().items()):
        yield name, degrade_inputs(images, severities, np.random.default_rng((seed, index)))


def collect_outputs_of(
    model: Any,
    loader: DataLoader,
    domain: str = TARGET,
    max_images: int = MAX_IMAGES,
    labels: bool = True,
) -> Outputs:
    """Run a model on images, in eval mode.

    Args:
        model: A classifier with one label an image, perhaps wrapped.
        loader: Of the images, as the model is tested.
        domain: The domain whose statistics a model takes that keeps them by domain.
        max_images: At most, evenly spread over the data set.
        labels: Whether labels are kept. Defaults to True.

    Raises:
        ValueError: If there is no image, or the model gives an image several labels.
    """
    found = _run(model, _batches(loader, max_images), domain)
    return found if labels else found._replace(labels=torch.full_like(found.labels, -1))


def _batches(loader: DataLoader, max_images: int) -> Iterator[Any]:
    total = len(loader.dataset)
    indices = np.linspace(0, total - 1, min(max_images, total)).round().astype(int).tolist()
    yield from DataLoader(Subset(loader.dataset, indices), BATCH_SIZE, collate_fn=loader.collate_fn)


@torch.no_grad()
def _run(model: Any, batches: Any, domain: str, keep_features: bool = True) -> Outputs:
    model = unwrap(model)
    rows: list[Outputs] = []
    announce_domain(model, domain)
    with evaluating(model):
        for batch in batches:
            batch = model.data_preprocessor(batch, False)
            feats = model.extract_feat(batch['inputs'])
            scores = [sample.pred_score for sample in model.head.predict(feats)]
            features = torch.empty(len(scores), 0)
            if keep_features:
                leaves = tree_flatten(model.head.pre_logits(feats))[0]
                features = torch.cat([leaf.flatten(1).float().cpu() for leaf in leaves], dim=1)
            labels = torch.tensor([_label(sample) for sample in batch['data_samples']])
            rows.append(Outputs(_logarithm(torch.stack(scores)), labels, features))
    announce_domain(model, TARGET)
    if not rows:
        raise ValueError('expected accuracy needs images, and the data set has none')
    return Outputs(*(torch.cat(parts) for parts in zip(*rows)))


def _logarithm(probabilities: Tensor) -> Tensor:
    probabilities = probabilities.float().cpu()
    if not torch.allclose(probabilities.sum(1), torch.ones(len(probabilities)), atol=1e-3):
        raise ValueError(
            'expected accuracy is for classifiers that give an image one label, and the '
            "probabilities of this one don't add up to one"
        )
    return probabilities.clamp(min=LEAST_PROBABILITY).log()


def _label(sample: Any) -> int:
    label = sample.get('gt_label')
    return int(label) if label is not None and label.numel() == 1 else -1


def degrade_inputs(
    inputs: Sequence[Tensor], severities: Mapping[str, float], rng: np.random.Generator
) -> list[Tensor]:
    """Degrade images as they reach a model's ``data_preprocessor``.

    Args:
        inputs: Each (C, H, W), uint8.
        severities: Corruption -> severity, see
            :func:`~tl_plugin.datasets.degrade_quality.degrade_image`.
        rng: Draws the corruptions.

    Raises:
        ValueError: If images aren't bytes.
    """
    if any(image.dtype != torch.uint8 for image in inputs):
        raise ValueError(
            'degraded copies are made of bytes, and these images reach data_preprocessor as '
            f'{inputs[0].dtype}: leave normalisation to data_preprocessor'
        )
    return [
        torch.from_numpy(degrade_image(image.permute(1, 2, 0).numpy(), severities, rng))
        .permute(2, 0, 1)
        .contiguous()
        for image in inputs
    ]
