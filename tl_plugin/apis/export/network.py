"""The part of a trained model that predicts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from tl_plugin.analysis.features import build_model
from tl_plugin.engine.interpolation import plain_model_config
from tl_plugin.engine.layers import LayerMap
from tl_plugin.launch.config_types import importable
from tl_plugin.reliability.checkpoints import checkpoint_weights
from tl_plugin.reliability.class_sets import has_several_labels
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.protocol import SOURCE, TARGET, announce_domain

from .preprocessing import Preprocessing


class Trained(NamedTuple):
    """A trained model without what served training alone.

    Attributes:
        model: The classifier, in eval mode on the CPU.
        weights: Its tensors by name.
        meta: Of the checkpoint.
        config: Of the model, without losses of adaptation and without files to begin from.
    """

    model: nn.Module
    weights: dict[str, Tensor]
    meta: dict
    config: Config


def load_trained(cfg: Config, checkpoint: str | Path, domain: str = TARGET) -> Trained:
    """Load a model for prediction on one domain.

    Args:
        cfg: Config of the run.
        checkpoint: Weights that it trained.
        domain: Whose running statistics prediction uses, where the model has them by domain.
            Defaults to 'target'.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the weights don't fit the model, or it has no statistics by domain to choose.
    """
    cfg = plain_model_config(cfg)
    weights, meta = checkpoint_weights(checkpoint)
    model = revert_sync_batchnorm(build_model(importable(cfg), weights=False))
    _load(model, weights, checkpoint)
    model.eval().requires_grad_(False)
    by_domain = getattr(model, 'statistics_by_domain', lambda: False)()
    if by_domain and domain == SOURCE:
        with model.statistics_of(SOURCE):
            own = {name: value.clone() for name, value in model.named_buffers()}
        for name, value in model.named_buffers():
            if not name.startswith('dsbn.'):
                value.copy_(own[name])
    if domain not in (SOURCE, TARGET):
        raise ValueError(f'domain must be {SOURCE} or {TARGET}, got {domain!r}')
    for name in LayerMap.training_only(model):
        if isinstance(getattr(model, name.rstrip('.'), None), nn.Module):
            setattr(model, name.rstrip('.'), None)
    for key in ('domain_specific_bn', 'feature_stage', 'norm_eval', 'sharpness_rho'):
        cfg.model.pop(key, None)
    unused = (*LayerMap.training_only(model), 'data_preprocessor.')
    kept = {n: v for n, v in model.state_dict().items() if not n.startswith(unused)}
    return Trained(model, kept, dict(meta), cfg)


def _load(model: nn.Module, weights: Mapping[str, Tensor], checkpoint: str | Path) -> None:
    unused = (*LayerMap.training_only(model), 'data_preprocessor.')
    optional = ('num_batches_tracked',)
    own = model.state_dict()
    dsbn = {name for name in own if name.startswith('dsbn.') and name in weights}
    wanted = {name for name in own if not name.startswith(unused)} | dsbn
    given = {name for name in weights if not name.startswith(unused)} | dsbn
    missing = sorted(name for name in wanted - given if not name.endswith(optional))
    extra = sorted(given - wanted)
    shapes = [
        f'{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}'
        for name in sorted(wanted & given)
        if weights[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f'{checkpoint} does not fit the model of this config: it lacks '
            f'{short_list(missing, 3)}; has beside that {short_list(extra, 3)}; of another shape: '
            f'{short_list(shapes, 3)}. Give the config.py that lies beside the checkpoint, with '
            'the strategies that it was trained with'
        )
    model.load_state_dict({name: weights[name] for name in wanted & given}, strict=False)


class Network(nn.Module):
    """What a file of a graph holds: images or tensors -> probabilities.

    Args:
        model: The classifier.
        preprocessing: Before it, None where the input is what the data preprocessor gives.
        temperature: Divides the logits (Guo et al., ICML 2017, arXiv 1706.04599). Defaults to 1.
        half: Whether the network computes in float16. Defaults to False.
    """

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing | None,
        temperature: float = 1.0,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.several_labels = has_several_labels(getattr(model, 'head', None))
        self.temperature = float(temperature)
        self.half_precision = half
        # Without the data preprocessor and without what isn't on the way to the logits.
        self.model = copy.deepcopy(model)
        self.model.data_preprocessor = None
        if half:
            self.model.half()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Predict a batch.

        Args:
            image: (N, H, W, C), uint8, with preprocessing; else (N, C, H, W), float32.

        Returns:
            Probabilities of the classes, (N, K).
        """
        return self.classify(image if self.preprocessing is None else self.preprocessing(image))

    def classify(self, images: Tensor) -> Tensor:
        """Predict images as the data preprocessor gives them, (N, C, H, W), float32."""
        logits = self.model(images.half() if self.half_precision else images, mode='tensor')
        if isinstance(logits, (tuple, list)):
            # Heads with two classifiers (Conformer) add their logits.
            logits = sum(logits)
        logits = logits.float() / self.temperature
        return logits.sigmoid() if self.several_labels else logits.softmax(dim=1)


class Reference:
    """The checkpoint as it predicts in mmpretrain, built and loaded apart from what is exported.

    Args:
        cfg: Config of the run.
        checkpoint: Weights that it trained.
        domain: Whose running statistics it uses. Defaults to 'target'.
        temperature: Divides the logits. Defaults to 1.
    """

    def __init__(
        self, cfg: Config, checkpoint: str | Path, domain: str = TARGET, temperature: float = 1.0
    ) -> None:
        self.model = revert_sync_batchnorm(build_model(importable(cfg), weights=False)).eval()
        self.model.load_state_dict(checkpoint_weights(checkpoint)[0], strict=False)
        announce_domain(self.model, domain)
        if hasattr(self.model, 'begin_adaptation'):
            self.model.begin_adaptation(False)
        self.temperature = temperature

    def preprocess(self, inputs: Tensor) -> Tensor:
        """Return what the network is given for the output of a pipeline, (N, C, H, W)."""
        return self.model.data_preprocessor(dict(inputs=inputs), False)['inputs']

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the probabilities for the output of a pipeline, (N, K)."""
        samples = self.model(self.preprocess(inputs), mode='predict')
        scores = torch.stack([sample.pred_score for sample in samples]).float()
        if self.temperature == 1:
            return scores
        if has_several_labels(getattr(self.model, 'head', None)):
            return (scores.logit() / self.temperature).sigmoid()
        return (scores.log() / self.temperature).softmax(dim=1)
