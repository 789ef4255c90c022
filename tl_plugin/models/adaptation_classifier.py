from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from tl_plugin.stack.options import check_option
from tl_plugin.stack.protocol import TRAINING_ONLY

from .adversary_health import feature_health, gradient_ratios
from .alignments import AdversarialAlignment, Alignments, DomainBatch
from .dsbn import DomainSpecificBatchNorm
from .features import join_rows, one_vector, take_rows
from .fitting import (
    build_module,
    check_head,
    domain_preprocessor,
    fit_head,
    fit_neck,
    interpolates,
)
from .idle_losses import warn_of_idle_losses
from .joint_batch import SOURCE, TARGET, TARGET_STRONG, JointBatch
from .regularizers import Regularizers
from .regularizers.regularizers import Maps
from .second_pass import check_second_passes, second_pass
from .sharpness import sharpened
from .small_losses import small_loss_mean
from .teacher import Teacher
from .training_signals import TrainingSignals

FEATURE_STAGES = ('neck', 'pre_logits')


@MODELS.register_module()
class AdaptationClassifier(TrainingSignals, ImageClassifier):
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
        feature_stage: Features that alignments read: 'pre_logits', the input of the head's
            last layer, or 'neck', the input of the head. Defaults to 'pre_logits'.
        domain_specific_bn: Whether each domain has a forward and running statistics of its own
            (domain-specific batch normalization, Chang et al., CVPR 2019, arXiv 1906.03950, with
            shared weights), instead of one forward over both. Prediction uses the target's, unless
            :meth:`set_domain` says otherwise. Defaults to False.
        norm_eval: Whether the backbone's batch norms normalize by their running statistics in
            training, too, which stay as they are. So what pretrained features tell isn't lost to
            the statistics of small batches. Affine weights train. Defaults to False.
        sharpness_rho: Radius in which the classification loss is to be flat (SDAT): its gradient is
            taken at the worst weights nearby, see :func:`tl_plugin.models.sharpness.sharpened`, at
            the cost of a second forward and backward pass. Defaults to 0, none.
        channels_last: Whether convolutions use the channels-last memory format, in which most
            convolutional networks are faster. Defaults to False.
        pretrained: As in ``ImageClassifier``. Defaults to None.
        train_cfg: As in ``ImageClassifier``; batch augmentations apply to the source alone.
            Defaults to None.
        data_preprocessor: Config of a :class:`DomainDataPreprocessor`, whose type may be left out.
            Defaults to None.
        init_cfg: As in ``ImageClassifier``. Defaults to None.

    Raises:
        ValueError: If an explicit ``head.in_channels`` isn't the width of the features, a loss
            has an invalid name, ``sharpness_rho`` is negative, the data preprocessor cannot take
            pairs of batches, or a loss over classes meets a head that gives an image several of
            them.
    """

    #: Children that prediction of the target doesn't need.
    training_only = TRAINING_ONLY

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        head: dict | None = None,
        alignments: dict[str, dict] | None = None,
        regularizers: dict[str, dict] | None = None,
        feature_stage: str = 'pre_logits',
        domain_specific_bn: bool = False,
        norm_eval: bool = False,
        sharpness_rho: float = 0.0,
        channels_last: bool = False,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        backbone = build_module(backbone)
        neck = build_module(fit_neck(neck, backbone))
        head, feats = fit_head(head, backbone, neck)
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            pretrained=pretrained,
            train_cfg=train_cfg,
            data_preprocessor=domain_preprocessor(data_preprocessor),
            init_cfg=init_cfg,
        )
        if feature_stage not in FEATURE_STAGES:
            raise ValueError(
                f'feature_stage must be one of {", ".join(FEATURE_STAGES)}, got {feature_stage!r}'
            )
        check_option('AdaptationClassifier', 'sharpness_rho', sharpness_rho, 'float')
        if not 0 <= sharpness_rho < math.inf:
            raise ValueError(f'sharpness_rho must be 0 or more, got {sharpness_rho!r}')
        self.feature_stage = feature_stage
        self.sharpness_rho = sharpness_rho
        self._is_checked = False
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self._domain = TARGET
        if norm_eval and domain_specific_bn:
            raise ValueError(
                'norm_eval=True keeps running statistics as they are, and domain_specific_bn=True '
                'has each domain train its own: set one of the two to False'
            )
        if norm_eval:
            self.backbone.norm_eval = True  # where mmpretrain's backbones have it, too
        self.dsbn = DomainSpecificBatchNorm(self) if domain_specific_bn else None
        self.alignments = Alignments(alignments or {}, self, feats)
        self.regularizers = Regularizers(regularizers or {}, taken=('cls', *self.alignments))
        check_head(self.head, {**self.alignments, **self.regularizers})
        self._interpolates = interpolates(self)
        momentum = self.alignments.teacher_momentum
        self.teacher = None if momentum is None else Teacher(self, momentum)
        self._measures_health = self._keeps_features = False

    def train(self, mode: bool = True) -> AdaptationClassifier:
        """As in ``nn.Module``; with ``norm_eval``, the backbone's batch norms stay in eval mode."""
        super().train(mode)
        if mode and getattr(self.backbone, 'norm_eval', False) is True:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def check_domains(self, domains: Collection[str]) -> None:
        """Check that batches have images of the domains that the losses read.

        Args:
            domains: Domains that each batch has images of: 'source', 'target', 'target_strong'.

        Raises:
            ValueError: If an alignment, a regularizer or the list of labelled target images lacks
                one, or nothing is left to learn from.
        """
        labelled_target = self.data_preprocessor.labelled_target is not None
        if TARGET not in domains and labelled_target and not self.alignments:
            raise ValueError(
                'data_preprocessor.labelled_target lists target images that keep their labels, and '
                "this training has no target: set train_cfg = dict(type='AdaptationTrainLoop', "
                'target_dataloader=...), or make the labelled images the train_dataloader'
            )
        self.alignments.check_domains(domains)
        if self.sharpness_rho and SOURCE not in domains and not labelled_target:
            raise ValueError(
                'sdat looks for a flat classification loss (model.sharpness_rho), and training '
                'without a source has none: leave it out, or adapt with '
                "train_cfg.type='AdaptationTrainLoop'"
            )
        self.regularizers.check_domains(domains)

    def losses_on_images(self) -> list[str]:
        """Return the names of regularizers that run the source model on the images."""
        return [
            name
            for name, each in self.regularizers.items()
            if each.needs_source_model and each.reads_images
        ]

    def set_progress(self, progress: float) -> None:
        """Set the fraction of training completed; the train loop does so before every step.

        Args:
            progress: In [0, 1].

        Raises:
            ValueError: If it isn't.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f'progress is a fraction of training in [0, 1], got {progress}')
        for alignment in self.alignments.values():
            alignment.set_progress(progress)

    def update_teacher(self) -> None:
        """Update the mean teacher, if there is one.

        The train loop does so before each step after a change of the weights: once per optimizer
        step, however many iterations that accumulates.
        """
        if self.teacher is not None:
            self.teacher.follow(self)

    def remember_source(self, state: dict[str, Tensor] | None = None) -> None:
        """Keep a copy of the model for the regularizers to compare with.

        Args:
            state: What :meth:`source_state` returned in the run that is resumed. Defaults to None.
        """
        self.regularizers.remember(self, state)

    def source_state(self) -> dict[str, Tensor] | None:
        """Return the weights of the source model, None where no regularizer needs it."""
        return self.regularizers.source_state()

    def needs_source_model(self) -> bool:
        """Return whether a regularizer compares with the source model."""
        return self.regularizers.needs_source_model

    def adversaries(self) -> dict[str, AdversarialAlignment]:
        """Return the adversarial alignments by name."""
        return self.alignments.adversaries()

    def measure_health(self, active: bool = True) -> None:
        """Switch on or off the diagnostics of adaptation, which cost some time.

        With them, :meth:`loss` also returns ``<name>_gradient_ratio`` of each adversary, its
        gradient at the features in units of the classification loss's, and ``feature_norm``,
        ``feature_rank`` and ``feature_spread`` of both domains together.
        """
        self._measures_health = active

    def set_domain(self, domain: str) -> None:
        """Set the domain whose batch norm statistics prediction uses, with domain-specific BN.

        Args:
            domain: 'source'; any other name means the target.
        """
        self._domain = domain

    def keep_features(self, active: bool = True) -> None:
        """Switch on or off that predictions contain the ``features`` of their images."""
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
        """As in ``ImageClassifier``, with the batch norm statistics of the domain."""
        with self.statistics_of(self._domain):
            return super().extract_feat(inputs, stage)

    def statistics_of(self, domain: str) -> AbstractContextManager:
        """Return a context in which the layers have a domain's running statistics.

        Args:
            domain: 'source'; any other name means the target, which is the default.
        """
        if self.dsbn is None or domain != SOURCE:
            return nullcontext()
        return self.dsbn.in_place(self)

    def statistics_by_domain(self) -> bool:
        """Return whether each domain has running statistics of its own."""
        return self.dsbn is not None

    def _extract(self, inputs: Tensor, batch: JointBatch, maps: Maps) -> Any:
        """Return the features of all rows; add those of all rows to ``maps``, too."""
        if self.dsbn is None:
            return self.extract_feat(inputs)
        # Before the first forward: without a source, training moves the layers' own at once.
        self.dsbn.start(self)
        split = batch.rows_of(SOURCE).stop
        feats, outputs, before = [], [], self._domain
        for domain, images in ((SOURCE, inputs[:split]), (TARGET, inputs[split:])):
            if len(images):
                self._domain = domain
                try:
                    feats.append(self.extract_feat(images))
                finally:
                    self._domain = before
                outputs.append({name: dict(found) for name, found in maps.items()})
        if len(outputs) > 1:
            for name, found in join_rows(*outputs).items():
                maps[name].update(found)
        return join_rows(*feats)

    def loss(self, inputs: Tensor, data_samples: Sequence[DataSample]) -> dict[str, Tensor]:
        """Return the losses of a joint batch (source first, then target) or of an ordinary one.

        Args:
            inputs: (N, C, H, W).
            data_samples: N samples: a :class:`JointBatch`, as :class:`DomainDataPreprocessor`
                builds it, or a list of samples that have a ``domain``.

        Returns:
            ``loss_cls``, ``loss_<alignment>``, ``loss_<regularizer>`` and diagnostics, 0-d each.

        Raises:
            ValueError: If a loss lacks images of a domain.
        """
        batch = JointBatch.of(data_samples)
        self.check_domains(batch.rows)
        if not self._is_checked:
            check_second_passes(self)
        with self.regularizers.reading(self) as maps:
            feats = self._extract(inputs, batch, maps)
        between = self._interpolated_logits(inputs, feats, batch)
        task = self._classification_loss(feats, batch, between)
        losses = dict(task)
        if self.alignments:
            losses.update(self._alignment_losses(inputs, feats, batch, between))
        losses.update(self.regularizers(self, inputs, feats, maps, batch))
        if not self._is_checked:
            warn_of_idle_losses(self, feats, losses)
            self._is_checked = True
        if self._measures_health and self.alignments and torch.is_grad_enabled():
            losses.update(gradient_ratios(self.adversaries(), feats, losses))
        if self.sharpness_rho and task and torch.is_grad_enabled():
            losses.update(sharpened(self, task, inputs, batch, self.sharpness_rho))
        return losses

    def classification_losses(self, inputs: Tensor, batch: JointBatch) -> dict[str, Tensor]:
        """Return the head's losses of a batch's labelled rows alone."""
        return self._classification_loss(self._extract(inputs, batch, {}), batch)

    def scores_of(self, inputs: Tensor) -> Tensor:
        """Return the head's scores, (N, K), of a batch of images alone."""
        return self.logits_of(self.extract_feat(inputs))

    def _interpolated_logits(self, inputs: Tensor, feats: Any, batch: JointBatch) -> Tensor | None:
        """Return source scores between those of the joint batch and of one of their own."""
        if not self._interpolates:
            return None
        rows = batch.rows_of(SOURCE)
        joint = self.logits_of(take_rows(feats, rows, len(batch)))
        alone = second_pass(self, 'scores_of', inputs[rows])
        return torch.lerp(alone, joint, torch.rand_like(joint))

    def _classification_loss(
        self, feats: Any, batch: JointBatch, between: Tensor | None = None
    ) -> dict[str, Tensor]:
        samples = batch.labelled_samples()
        if not samples and self.forget_rate is None:
            return {}
        weights = batch.labelled_weights(self.class_weights, self._image_weights)
        feats = take_rows(feats, batch.labelled, len(batch))
        if between is None:
            loss = partial(self.head.loss, feats, samples)
        else:  # the source's rows come first
            scores = torch.cat([between, self.logits_of(feats)[len(between) :]])
            loss = partial(self.head._get_loss, scores, samples)
        if self.forget_rate is None:
            losses = loss() if weights is None else loss(weight=weights)
        else:
            losses = small_loss_mean(loss, batch.labelled_groups, weights, self.forget_rate)
        return {('loss_cls' if key == 'loss' else key): value for key, value in losses.items()}

    def _alignment_losses(
        self, inputs: Tensor, feats: Any, batch: JointBatch, between: Tensor | None
    ) -> dict[str, Tensor]:
        features = self.features_of(feats)
        logits = self.logits_of(feats) if self.alignments.needs_logits else None
        labels = None if batch.labels is None else batch.labels.to(features.device)
        source, target = (
            DomainBatch(
                features=features[rows],
                logits=None if logits is None else logits[rows],
                labels=None if labels is None else labels[rows],
            )
            for rows in (batch.rows_of(SOURCE), batch.rows_of(TARGET))
        )
        source = source._replace(
            domains=self.alignments.source_numbers(batch.source_numbers, features.device),
            weights=batch.source_weights(self.class_weights),
            interpolated_logits=between,
        )
        target = target._replace(**self._target_fields(inputs, target, logits, batch))
        losses = self.alignments(source, target)
        if self._measures_health:
            losses.update(feature_health(features))
        return losses

    def _target_fields(
        self, inputs: Tensor, target: DomainBatch, logits: Tensor | None, batch: JointBatch
    ) -> dict[str, Tensor]:
        fields = {}
        if logits is not None and TARGET_STRONG in batch.rows:
            fields['strong_logits'] = logits[batch.rows[TARGET_STRONG]]
        if self.teacher is not None:
            fields['teacher_logits'] = self.teacher(self, inputs[batch.rows_of(TARGET)])
        if self.alignments.mask is not None:
            images = self.alignments.mask(inputs[batch.rows_of(TARGET)])
            fields['masked_logits'] = second_pass(self, 'scores_of', images)
        if self._pseudo_labels is not None:
            fields['pseudo_labels'] = self._pseudo_labels[self._numbers_of(batch)].to(inputs.device)
        if self._memory is not None and self.alignments.num_neighbours:
            numbers = torch.tensor(self._numbers_of(batch), device=inputs.device)
            self._memory.update(numbers, target.features, target.logits)
            fields['neighbours'] = self._memory.neighbours(numbers, self.alignments.num_neighbours)
        return fields

    def features_of(self, feats: Any) -> Tensor:
        """Return one vector per image, (N, D), from the output of ``extract_feat``."""
        if self.feature_stage == 'neck':
            return one_vector(feats[-1] if isinstance(feats, (tuple, list)) else feats)
        return one_vector(self.head.pre_logits(feats))

    def logits_of(self, feats: Any) -> Tensor:
        """Return the head's scores, (N, K), for the output of ``extract_feat``."""
        return one_vector(self.head(feats))
