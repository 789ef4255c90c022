from __future__ import annotations

import inspect
from typing import Any

import torch
from mmengine.model import ModuleDict
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tl_plugin.functional import dry_run

from .adversary_health import feature_health, gradient_ratio
from .alignments import AdversarialAlignment, DomainBatch
from .data_preprocessor import SOURCE, TARGET, TARGET_STRONG, DomainDataPreprocessor
from .regularizers import Regularizers
from .rows import channel_dim, one_vector, take_rows

FEATURE_STAGES = ('neck', 'pre_logits')


@MODELS.register_module()
class AdaptationClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` plus alignments between a source and a target domain.

    One forward over [source; target]; the head's loss on the labelled rows becomes ``loss_cls``,
    each alignment's loss ``loss_<name>``, what it logs ``<name>_<key>``, each regularizer's loss
    ``loss_<name>``, too. Prediction, test and export are ``ImageClassifier``'s. Without alignments
    and regularizers it is an ``ImageClassifier`` that finds its head's ``in_channels`` by itself.

    Args:
        backbone: As in ``ImageClassifier``.
        neck: As in ``ImageClassifier``. Defaults to None.
        head: As in ``ImageClassifier``; ``in_channels`` may be left out. Defaults to None.
        alignments: Name -> config of an :class:`Alignment`. Defaults to None.
        regularizers: Name -> config of a :class:`Regularizer`. Those that compare with the source
            model need a :class:`SourceModelHook` in ``custom_hooks``. Defaults to None.
        feature_stage: What alignments take for the features: 'pre_logits', the input of the head's
            last layer, or 'neck', what goes into the head. Defaults to 'pre_logits'.
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
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        backbone, neck = _build(backbone), _build(neck)
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=_fit_head(head, backbone, neck),
            pretrained=pretrained,
            train_cfg=train_cfg,
            data_preprocessor=_domain_preprocessor(data_preprocessor),
            init_cfg=init_cfg,
        )
        if feature_stage not in FEATURE_STAGES:
            raise ValueError(
                f'feature_stage must be one of {", ".join(FEATURE_STAGES)}, got {feature_stage!r}'
            )
        self.feature_stage = feature_stage
        self.alignments = self._build_alignments(alignments or {})
        self.regularizers = Regularizers(regularizers or {}, taken=('cls', *self.alignments))
        self._measures_health = False

    def _build_alignments(self, configs: dict[str, dict]) -> ModuleDict:
        configs = {name: cfg for name, cfg in configs.items() if cfg is not None}
        for name in configs:
            if not name.isidentifier() or 'loss' in name:
                raise ValueError(
                    f'the name of an alignment must be a Python identifier without "loss" in it, '
                    f'got {name!r}: it becomes loss_<name> in the log, and mmengine adds up every '
                    'value that has "loss" in its name'
                )
        if not configs:
            return ModuleDict()
        if not hasattr(self.head, 'pre_logits'):
            raise ValueError(
                f'alignments read head.pre_logits(features), which {type(self.head).__name__} '
                'has not; use a head that derives from mmpretrain ClsHead'
            )
        features = dry_run(self, lambda model, x: model.features_of(model.extract_feat(x)))
        default = {
            'in_features': features.shape[1],
            'num_classes': getattr(self.head, 'num_classes', None) or self._num_logits(),
        }
        return ModuleDict(
            {name: MODELS.build(cfg, default_args=default) for name, cfg in configs.items()}
        )

    def _num_logits(self) -> int:
        return dry_run(self, lambda model, x: model.logits_of(model.extract_feat(x))).shape[1]

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
        return {
            name: alignment
            for name, alignment in self.alignments.items()
            if isinstance(alignment, AdversarialAlignment)
        }

    def measure_health(self, active: bool = True) -> None:
        """Switches on or off what costs a little: in each loss, the health of the adaptation.

        Beside the losses come ``<name>_gradient_ratio`` of each adversary, its gradient at the
        features in units of the classification loss's, and ``feature_norm``, ``feature_rank`` and
        ``feature_spread`` of both domains together.
        """
        self._measures_health = active

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
        rows = _domain_rows(data_samples)
        if self.alignments and TARGET not in rows:
            raise ValueError(
                f'alignments ({", ".join(self.alignments)}) need target images and this batch has '
                "none: set train_cfg = dict(type='AdaptationTrainLoop', target_dataloader=..., ...)"
            )
        with self.regularizers.reading(self) as maps:
            feats = self.extract_feat(inputs)
        losses = self._classification_loss(feats, data_samples, rows[SOURCE])
        if self.alignments:
            losses.update(self._alignment_losses(feats, data_samples, rows))
        losses.update(self.regularizers(self, inputs, feats, maps, rows))
        if self._measures_health and self.alignments and torch.is_grad_enabled():
            losses.update(self._health(feats, losses))
        return losses

    def _health(self, feats: Any, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        ratios = {
            f'{name}_gradient_ratio': gradient_ratio(
                losses[f'loss_{name}'], losses['loss_cls'], feats
            )
            for name in self.adversaries()
        }
        return {key: ratio for key, ratio in ratios.items() if ratio is not None}

    def _classification_loss(
        self, feats: Any, data_samples: list[DataSample], rows: slice
    ) -> dict[str, Tensor]:
        losses = self.head.loss(take_rows(feats, rows, len(data_samples)), data_samples[rows])
        return {('loss_cls' if key == 'loss' else key): value for key, value in losses.items()}

    def _alignment_losses(
        self, feats: Any, data_samples: list[DataSample], rows: dict[str, slice]
    ) -> dict[str, Tensor]:
        features = self.features_of(feats)
        needs_logits = any(alignment.needs_logits for alignment in self.alignments.values())
        logits = self.logits_of(feats) if needs_logits else None
        source, target = (
            DomainBatch(
                features=features[rows[domain]],
                logits=None if logits is None else logits[rows[domain]],
                labels=_labels(data_samples[rows[domain]], features.device),
            )
            for domain in (SOURCE, TARGET)
        )
        if logits is not None and TARGET_STRONG in rows:
            target = target._replace(strong_logits=logits[rows[TARGET_STRONG]])
        losses = {}
        for name, alignment in self.alignments.items():
            losses[f'loss_{name}'] = alignment.loss_weight * alignment(source, target)
            losses.update({f'{name}_{key}': log for key, log in alignment.diagnostics.items()})
        if self._measures_health:
            losses.update(feature_health(features))
        return losses

    def features_of(self, feats: Any) -> Tensor:
        """One vector an image, (N, D), out of what ``extract_feat`` gives."""
        if self.feature_stage == 'neck':
            return one_vector(feats[-1] if isinstance(feats, (tuple, list)) else feats)
        return one_vector(self.head.pre_logits(feats))

    def logits_of(self, feats: Any) -> Tensor:
        """The head's scores, (N, K), of what ``extract_feat`` gives."""
        return one_vector(self.head(feats))


def _build(cfg: Any) -> nn.Module | None:
    # A list of configs, as HRNet's necks are, builds a sequence of them.
    return cfg if cfg is None or isinstance(cfg, nn.Module) else MODELS.build(cfg)


def _domain_preprocessor(cfg: Any) -> Any:
    if cfg is None or isinstance(cfg, dict):
        cfg = dict(cfg or {})
        kind = cfg.get('type')
        if kind is None or (isinstance(kind, str) and kind.split('.')[-1] == 'ClsDataPreprocessor'):
            cfg['type'] = DomainDataPreprocessor
        return cfg
    if not isinstance(cfg, DomainDataPreprocessor):
        raise ValueError(
            'AdaptationClassifier gets pairs of batches and needs a DomainDataPreprocessor, '
            f'got {type(cfg).__name__}'
        )
    return cfg


def _fit_head(head: Any, backbone: nn.Module, neck: nn.Module | None) -> Any:
    """Fills in ``in_channels`` where it is missing, refuses one that doesn't fit."""
    if not isinstance(head, dict):
        return head
    head_class = MODELS.get(head['type']) if isinstance(head['type'], str) else head['type']
    parameters = inspect.signature(head_class).parameters if head_class else {}
    if 'in_channels' not in parameters:
        return head
    width = _feature_width(backbone, neck)
    given = head.get('in_channels')
    if given is None:
        return {**head, 'in_channels': width}
    if isinstance(given, int) and given != width:
        raise ValueError(
            f'head.in_channels is {given}, but {type(backbone).__name__}'
            f'{" with " + type(neck).__name__ if neck is not None else ""} gives features of width '
            f'{width}: set in_channels={width}, or leave it out'
        )
    return head


def _feature_width(backbone: nn.Module, neck: nn.Module | None) -> int:
    stages = nn.Sequential(backbone, *([neck] if neck is not None else []))
    feats = dry_run(stages, lambda network, inputs: network(inputs))
    last = feats[-1] if isinstance(feats, (tuple, list)) else feats
    last = tree_flatten(last)[0][-1]  # [patch tokens, class token]: heads read the class token
    return last.shape[channel_dim(last)]


def _domain_rows(data_samples: list[DataSample]) -> dict[str, slice]:
    """Where each domain stands in a batch; an ordinary batch is all source."""
    domains = [sample.get('domain', SOURCE) for sample in data_samples]
    rows, start = {}, 0
    for name in dict.fromkeys(domains):
        rows[name] = slice(start, start + domains.count(name))
        start = rows[name].stop
    return rows


def _labels(samples: list[DataSample], device: torch.device) -> Tensor | None:
    if any('gt_score' in sample for sample in samples):
        return None  # mixed images have no single label
    labels = [sample.gt_label[:1] if 'gt_label' in sample else None for sample in samples]
    unlabelled = torch.full((1,), -1, dtype=torch.long, device=device)
    return torch.cat([unlabelled if label is None else label.to(device) for label in labels])
