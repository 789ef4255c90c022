from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from .adversary_health import feature_health, gradient_ratios
from .alignments import AdversarialAlignment, Alignments, DomainBatch
from .data_preprocessor import SOURCE, TARGET, TARGET_STRONG
from .domain_batches import (
    Rows,
    domain_rows,
    labelled_rows,
    labelled_samples,
    labels_of,
    sources_of,
    weights_of,
)
from .fitting import build_module, check_choice, domain_preprocessor, fit_head, fit_neck
from .regularizers import Regularizers
from .rows import join_rows, one_vector, take_rows
from .source_statistics import SourceStatistics
from .teacher import Teacher

FEATURE_STAGES = ('neck', 'pre_logits')
BATCH_STATISTICS = ('joint', 'per_domain')


@MODELS.register_module()
class AdaptationClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` plus alignments between a source and a target domain.

    One forward over [source; target]; the head's loss on the labelled rows becomes ``loss_cls``,
    each alignment's loss ``loss_<name>``, what it logs ``<name>_<key>``, each regularizer's loss
    ``loss_<name>``, too. Prediction, test and export are ``ImageClassifier``'s. Without alignments
    and regularizers it is an ``ImageClassifier`` that finds its head's ``in_channels`` by itself.

    Args:
        backbone: As in ``ImageClassifier``.
        neck: As in ``ImageClassifier``; a :class:`BottleneckNeck` finds its ``in_channels``.
            Defaults to None.
        head: As in ``ImageClassifier``; ``in_channels`` may be left out. Defaults to None.
        alignments: Name -> config of an :class:`Alignment`. Defaults to None.
        regularizers: Name -> config of a :class:`Regularizer`. Those that compare with the source
            model need a :class:`SourceModelHook` in ``custom_hooks``. Defaults to None.
        feature_stage: What alignments take for the features: 'pre_logits', the input of the head's
            last layer, or 'neck', what goes into the head. Defaults to 'pre_logits'.
        batch_statistics: 'joint', one forward over both domains, or 'per_domain': a forward each,
            with running statistics of their own (as domain-specific batch normalization, Chang et
            al., CVPR 2019, arXiv 1906.03950, with shared weights). Prediction takes the target's,
            unless :meth:`set_domain` says otherwise. Defaults to 'joint'.
        channels_last: Whether convolutions hold their weights, and so compute, with the channels
            innermost, which most convolutional networks are faster with. Defaults to False.
        pretrained: As in ``ImageClassifier``. Defaults to None.
        train_cfg: As in ``ImageClassifier``; batch augmentations touch the source alone.
            Defaults to None.
        data_preprocessor: Config of a :class:`DomainDataPreprocessor`, whose type may be left out.
            Defaults to None.
        init_cfg: As in ``ImageClassifier``. Defaults to None.

    Raises:
        ValueError: If an explicit ``head.in_channels`` isn't the width of the features, the name of
            a loss can't be one, or the data preprocessor can't take pairs of batches.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        head: dict | None = None,
        alignments: dict[str, dict] | None = None,
        regularizers: dict[str, dict] | None = None,
        feature_stage: str = 'pre_logits',
        batch_statistics: str = 'joint',
        channels_last: bool = False,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        backbone = build_module(backbone)
        neck = build_module(fit_neck(neck, backbone))
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=fit_head(head, backbone, neck),
            pretrained=pretrained,
            train_cfg=train_cfg,
            data_preprocessor=domain_preprocessor(data_preprocessor),
            init_cfg=init_cfg,
        )
        check_choice('feature_stage', feature_stage, FEATURE_STAGES)
        check_choice('batch_statistics', batch_statistics, BATCH_STATISTICS)
        self.feature_stage = feature_stage
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self._domain = TARGET
        self.source_statistics = SourceStatistics(self) if batch_statistics != 'joint' else None
        self.alignments = Alignments(alignments or {}, self)
        self.regularizers = Regularizers(regularizers or {}, taken=('cls', *self.alignments))
        momentum = self.alignments.teacher_momentum
        self.teacher = None if momentum is None else Teacher(self, momentum)
        self.register_buffer('class_weights', None, persistent=False)
        self._pseudo_labels: Tensor | None = None
        self._measures_health = self._keeps_features = False

    def set_progress(self, progress: float) -> None:
        """Tells which part of training is done; the train loop does so before every step.

        Args:
            progress: In [0, 1].

        Raises:
            ValueError: If it isn't.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f'progress is a part of training in [0, 1], got {progress}')
        for alignment in self.alignments.values():
            alignment.set_progress(progress)

    def adversaries(self) -> dict[str, AdversarialAlignment]:
        """The alignments that play against the features, by name."""
        return self.alignments.adversaries()

    def measure_health(self, active: bool = True) -> None:
        """Switches on or off what costs a little: in each loss, the health of the adaptation.

        Beside the losses come ``<name>_gradient_ratio`` of each adversary, its gradient at the
        features in units of the classification loss's, and ``feature_norm``, ``feature_rank`` and
        ``feature_spread`` of both domains together.
        """
        self._measures_health = active

    def set_domain(self, domain: str) -> None:
        """Tells whose images are predicted from now on, where statistics are kept by domain.

        Args:
            domain: 'source'; any other name means the target.
        """
        self._domain = domain

    def set_class_weights(self, weights: Tensor | None) -> None:
        """Weighs source images by class, in the classification loss and in alignments that can.

        Args:
            weights: One a class, (K,), mean 1 over the source images; None for equal ones.
        """
        if weights is not None and self.class_weights is None and self.alignments.unweighted:
            print_log(
                f'source images are weighed by class, but {", ".join(self.alignments.unweighted)} '
                'compares the domains without these weights and goes on matching the shifted '
                'classes: dann and cdan use them',
                logger='current',
                level=logging.WARNING,
            )
        device = next(self.parameters()).device
        self.class_weights = None if weights is None else weights.float().to(device)

    def set_pseudo_labels(self, labels: Tensor | None) -> None:
        """Gives target images labels that a hook has found, for alignments that read them.

        Args:
            labels: By index in the target data set, -1 for none; None takes them away.
        """
        self._pseudo_labels = labels

    def keep_features(self, active: bool = True) -> None:
        """Switches on or off that predictions come with the ``features`` of their images."""
        self._keeps_features = active

    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any
    ) -> list[DataSample]:
        """As in ``ImageClassifier``."""
        feats = self.extract_feat(inputs)
        samples = self.head.predict(feats, data_samples, **kwargs)
        if self._keeps_features:
            for sample, features in zip(samples, self.features_of(feats)):
                sample.set_field(features, 'features')
        return samples

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> Any:
        """As in ``ImageClassifier``, with the batch statistics of the domain."""
        if self.source_statistics is None or self._domain != SOURCE:
            return super().extract_feat(inputs, stage)
        with self.source_statistics.in_place(self):
            return super().extract_feat(inputs, stage)

    @contextmanager
    def _images_of(self, domain: str) -> Iterator[None]:
        before, self._domain = self._domain, domain
        try:
            yield
        finally:
            self._domain = before

    def _extract(self, inputs: Tensor, rows: dict[str, slice]) -> Any:
        if self.source_statistics is None:
            return self.extract_feat(inputs)
        split = rows[SOURCE].stop if SOURCE in rows else 0
        feats = []
        for domain, part in ((SOURCE, inputs[:split]), (TARGET, inputs[split:])):
            if len(part):
                with self._images_of(domain):
                    feats.append(self.extract_feat(part))
        return join_rows(*feats)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a joint batch (source first, then target) or of an ordinary one.

        Args:
            inputs: (N, C, H, W).
            data_samples: N samples; ``domain`` tells where each is from, as
                :class:`DomainDataPreprocessor` sets it.

        Returns:
            ``loss_cls``, ``loss_<alignment>``, ``loss_<regularizer>`` and diagnostics, 0-d each.

        Raises:
            ValueError: If there are alignments and no target images.
        """
        rows = domain_rows(data_samples)
        if self.alignments and TARGET not in rows:
            raise ValueError(
                f'alignments ({", ".join(self.alignments)}) need target images and this batch has '
                "none: set train_cfg = dict(type='AdaptationTrainLoop', target_dataloader=..., ...)"
            )
        if self.teacher is not None and self.training:
            self.teacher.follow(self)
        with self.regularizers.reading(self) as maps:
            feats = self._extract(inputs, rows)
        losses = self._classification_loss(feats, data_samples, labelled_rows(data_samples, rows))
        if self.alignments:
            losses.update(self._alignment_losses(inputs, feats, data_samples, rows))
        losses.update(self.regularizers(self, inputs, feats, maps, rows))
        if self._measures_health and self.alignments and torch.is_grad_enabled():
            losses.update(gradient_ratios(self.adversaries(), feats, losses))
        return losses

    def _classification_loss(
        self, feats: Any, data_samples: list[DataSample], rows: Rows
    ) -> dict[str, Tensor]:
        samples = labelled_samples(data_samples, rows)
        if not samples:
            return {}
        options = {}
        if self.class_weights is not None:
            options['weight'] = weights_of(samples, self.class_weights)
        losses = self.head.loss(take_rows(feats, rows, len(data_samples)), samples, **options)
        return {('loss_cls' if key == 'loss' else key): value for key, value in losses.items()}

    def _alignment_losses(
        self,
        inputs: Tensor,
        feats: Any,
        data_samples: list[DataSample],
        rows: dict[str, slice],
    ) -> dict[str, Tensor]:
        features = self.features_of(feats)
        logits = self.logits_of(feats) if self.alignments.needs_logits else None
        source, target = (
            DomainBatch(
                features=features[part],
                logits=None if logits is None else logits[part],
                labels=labels_of(data_samples[part], features.device),
            )
            for part in (rows.get(SOURCE, slice(0, 0)), rows[TARGET])
        )
        source = source._replace(**self._about_source(data_samples[: len(source.features)]))
        target = target._replace(**self._about_target(inputs, logits, data_samples, rows))
        losses = self.alignments(source, target)
        if self._measures_health:
            losses.update(feature_health(features))
        return losses

    def _about_source(self, samples: list[DataSample]) -> dict[str, Tensor | None]:
        device = next(self.parameters()).device
        weights = None
        if self.class_weights is not None:
            weights = weights_of(samples, self.class_weights)
        domains = sources_of(samples, self.alignments.num_sources, device)
        return dict(domains=domains, weights=weights)

    def _about_target(
        self,
        inputs: Tensor,
        logits: Tensor | None,
        data_samples: list[DataSample],
        rows: dict[str, slice],
    ) -> dict[str, Tensor]:
        found = {}
        if logits is not None and TARGET_STRONG in rows:
            found['strong_logits'] = logits[rows[TARGET_STRONG]]
        if self.teacher is not None:
            found['teacher_logits'] = self.teacher(self, inputs[rows[TARGET]])
        if self._pseudo_labels is not None:
            indices = [sample.sample_idx for sample in data_samples[rows[TARGET]]]
            found['pseudo_labels'] = self._pseudo_labels[indices].to(inputs.device)
        return found

    def features_of(self, feats: Any) -> Tensor:
        """One vector an image, (N, D), out of what ``extract_feat`` gives."""
        if self.feature_stage == 'neck':
            return one_vector(feats[-1] if isinstance(feats, (tuple, list)) else feats)
        return one_vector(self.head.pre_logits(feats))

    def logits_of(self, feats: Any) -> Tensor:
        """The head's scores, (N, K), of what ``extract_feat`` gives."""
        return one_vector(self.head(feats))
