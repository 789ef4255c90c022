from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tl_plugin.engine.layers.dry_run import dry_run, hollow_copy

from ..joint_batch import SOURCE, TARGET, TARGET_STRONG
from ..loss_dict import LossDict
from .adversarial import AdversarialAlignment
from .base import Alignment, DomainBatch


class Alignments(LossDict):
    """All alignments of a classifier.

    Args:
        configs: Name -> config of an :class:`Alignment`; None switches one off.
        classifier: The :class:`AdaptationClassifier`, whose widths they are built for.
        feats: What ``extract_feat`` gives for a batch of two, of which shapes alone are read.
            Defaults to None: it is run for them.

    Raises:
        ValueError: If a name can't be one, or the classifier's head has no ``pre_logits``.
        TypeError: If one is no alignment.
    """

    def __init__(
        self, configs: dict[str, dict | None], classifier: nn.Module, feats: Any = None
    ) -> None:
        super().__init__(
            'model.alignments', configs, Alignment, defaults=lambda: _widths(classifier, feats)
        )

    def adversaries(self) -> dict[str, AdversarialAlignment]:
        """Return the adversarial alignments by name."""
        return {
            name: alignment
            for name, alignment in self.items()
            if isinstance(alignment, AdversarialAlignment)
        }

    @property
    def needs_logits(self) -> bool:
        """Whether an alignment reads the head's scores."""
        return any(alignment.needs_logits for alignment in self.values())

    @property
    def num_neighbours(self) -> int:
        """How many neighbours of each target image alignments read; 0 where none does."""
        return max((alignment.num_neighbours for alignment in self.values()), default=0)

    @property
    def interpolating(self) -> list[str]:
        """Names of the alignments for which the source learns interpolated scores."""
        return [name for name, alignment in self.items() if alignment.interpolates_logits]

    @property
    def second_passes(self) -> list[str]:
        """Names of the alignments that take another pass over some images."""
        masking = [name for name, alignment in self.items() if alignment.mask is not None]
        return [*self.interpolating, *masking]

    @property
    def unweighted(self) -> list[str]:
        """Names of the alignments that ignore class weights."""
        return [name for name, alignment in self.items() if alignment.ignores_class_weights]

    @property
    def num_sources(self) -> int | None:
        """How many sources the data must have; None where no alignment distinguishes them."""
        known = [alignment.num_sources for alignment in self.values()]
        return min((number for number in known if number > 1), default=None)

    def source_numbers(self, found: list[int] | None, device: torch.device) -> Tensor | None:
        """Check and convert which of several sources each source image is from.

        Args:
            found: The number of each, from 0; None where the data don't say.
            device: Device of the result.

        Returns:
            (N,), None where the data don't say.

        Raises:
            ValueError: If an alignment expects several sources and the data don't number them, or
                have more of them.
        """
        known = self.num_sources
        if known is not None and found is None:
            raise ValueError(
                f'an alignment has num_sources={known}, but source images do not say which of them '
                "they are from: set train_dataloader.dataset = dict(type='SeveralSources', "
                'datasets=[...])'
            )
        if known is not None and max(found) >= known:
            raise ValueError(
                f'an alignment has num_sources={known}, but the data have source number '
                f'{max(found)}, counted from 0: set num_sources to the length of '
                'train_dataloader.dataset.datasets'
            )
        return None if found is None else torch.tensor(found, device=device)

    @property
    def teacher_momentum(self) -> float | None:
        """Momentum of the mean teacher; None where no alignment reads it."""
        momenta = {alignment.teacher_momentum for alignment in self.values()} - {None}
        if not momenta:
            momenta = {alignment.usual_teacher_momentum for alignment in self.values()} - {None}
        if len(momenta) > 1:
            raise ValueError(
                f'a classifier has one teacher, got several teacher_momentum: {sorted(momenta)}'
            )
        return next(iter(momenta), None)

    @property
    def mask(self) -> Callable[[Tensor], Tensor] | None:
        """What masks target images; None where no alignment looks at masked ones."""
        masks = [alignment.mask for alignment in self.values() if alignment.mask is not None]
        if len(masks) > 1:
            raise ValueError(
                f'target images are masked in one way, and {len(masks)} alignments mask them: keep '
                'one MaskedConsistency'
            )
        return next(iter(masks), None)

    def check_domains(self, domains: Collection[str]) -> None:
        """Check that batches have images of the domains that the alignments compare.

        Args:
            domains: See :meth:`AdaptationClassifier.check_domains`.

        Raises:
            ValueError: If one of them lacks a domain, or training without a source has none.
        """
        if self and TARGET not in domains:
            raise ValueError(
                f'alignments ({", ".join(self)}) need target images and this batch has none: set '
                "train_cfg = dict(type='AdaptationTrainLoop', target_dataloader=..., ...)"
            )
        if SOURCE not in domains and not self:
            raise ValueError(
                'training without a source learns from alignments, and model.alignments has none: '
                'use the overlay shot, or name some that look at the target alone'
            )
        lacking = [name for name, each in self.items() if each.needs_source]
        if SOURCE not in domains and lacking:
            raise ValueError(
                f'{", ".join(lacking)} compares source with target images, and training without a '
                "source has none: adapt with train_cfg.type='AdaptationTrainLoop', or use "
                'alignments that look at the target alone, as the overlay shot does (pseudo_label '
                'does with relative=False)'
            )
        lacking = [name for name, each in self.items() if each.needs_strong_view]
        if TARGET_STRONG not in domains and lacking:
            raise ValueError(
                f'{", ".join(lacking)} needs a strongly augmented view of each target image: set '
                "train_cfg.strong_view = [dict(type='RandAugment', ...)], as the overlay "
                'pseudo_label does'
            )

    def forward(self, source: DomainBatch, target: DomainBatch) -> dict[str, Tensor]:
        """Return ``loss_<name>`` of each, weighted, and ``<name>_<key>`` of what it logs."""
        found = {}
        for name, alignment in self.items():
            found[f'loss_{name}'] = alignment.current_weight() * alignment(source, target)
            found.update({f'{name}_{key}': log for key, log in alignment.diagnostics.items()})
        return found


def _widths(classifier: Any, feats: Any) -> dict[str, int]:
    head = classifier.head
    if not hasattr(head, 'pre_logits'):
        raise ValueError(
            f'alignments read head.pre_logits(features), which {type(head).__name__} '
            'has not; use a head that derives from mmpretrain ClsHead'
        )
    features = _shape(classifier, feats, lambda model, feats: model.features_of(feats))
    num_classes = getattr(head, 'num_classes', None)
    if not num_classes:
        num_classes = _shape(classifier, feats, lambda model, feats: model.logits_of(feats))[1]
    return {'in_features': features[1], 'num_classes': num_classes}


def _shape(classifier: Any, feats: Any, head: Callable[[Any, Any], Tensor]) -> torch.Size:
    """Return the shape of what the head makes of features; run all the network if it has to be."""
    if feats is not None:
        # Copying takes as long as running.
        alone = copy.copy(classifier)
        alone._modules = {**classifier._modules, 'backbone': nn.Identity(), 'neck': None}
        with contextlib.suppress(Exception), hollow_copy(alone) as hollow:
            given = tree_map(lambda one: torch.empty(one.shape, dtype=one.dtype), feats)
            return head(hollow, given).shape
    return dry_run(classifier, lambda model, x: head(model, model.extract_feat(x))).shape
