"""Every torchvision classification model as a backbone with pooled features."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.registry import MODELS
from torch import nn

from .pooled import PooledBackbone, check_name
from .weights import load_weights

#: Models with auxiliary classifiers, which train differently from how they are tested.
WITH_AUXILIARIES = ('googlenet', 'inception_v3')


@MODELS.register_module()
class PooledTorchvisionBackbone(PooledBackbone):
    """Any torchvision classification model as a backbone that gives one pooled vector per image.

    The vector is what the model's last layer, its classifier, is given. Auxiliary classifiers are
    left out. The network lies under ``torchvision_model``.

    Args:
        model_name: A name from ``torchvision.models.list_models(module=torchvision.models)``.
        weights: Weights of torchvision that training begins with, which ``init_weights``
            downloads: ``'DEFAULT'``, ``'IMAGENET1K_V1'``, ... Defaults to None: random ones.
        checkpoint_path: Local weights that training begins with, loaded in ``init_weights``:
            ``.pth`` or ``.safetensors``, of torchvision, mmengine or other training programs; a
            classifier in them is dropped. Defaults to ''.
        init_cfg: As in mmengine. Defaults to None.
        **kwargs: What else the model takes: ``dropout``, ``stochastic_depth_prob``, ...

    Raises:
        ValueError: If the name or the weights are unknown, or an argument contradicts the purpose;
            in ``init_weights``, if the checkpoint doesn't fit.
        FileNotFoundError: In ``init_weights``, if there's no file at ``checkpoint_path``.

    Example:
        >>> PooledTorchvisionBackbone('mobilenet_v3_small').num_features
        1024
    """

    def __init__(
        self,
        model_name: str,
        weights: str | None = None,
        checkpoint_path: str = '',
        init_cfg: dict | list | None = None,
        **kwargs: Any,
    ) -> None:
        from torchvision import models

        super().__init__(init_cfg)
        _check_arguments(model_name, weights, checkpoint_path, kwargs)
        self._options = dict(name=model_name, **{**_built_for(model_name, weights), **kwargs})
        self._weights, self._checkpoint_path = weights, checkpoint_path
        auxiliaries = dict(aux_logits=False) if model_name in WITH_AUXILIARIES else {}
        self.torchvision_model = models.get_model(**self._options, **auxiliaries)
        self._classifier = _remove_classifier(self.torchvision_model)
        self.settle(f'weights={weights}' if weights else str(checkpoint_path))

    def load_initial_weights(self) -> None:
        """Load ``checkpoint_path``, or the ``weights`` of torchvision."""
        if self._checkpoint_path:
            load_weights(
                self.torchvision_model,
                self._checkpoint_path,
                (self._classifier, 'aux1', 'aux2', 'AuxLogits'),
            )
            return
        from torchvision import models

        # Each architecture has its own loading code in torchvision, hence a second model.
        with torch.random.fork_rng(devices=[]):
            pretrained = models.get_model(**self._options, weights=self._weights)
        _remove_classifier(pretrained)
        state = pretrained.state_dict()  # of auxiliary classifiers, too
        own = self.torchvision_model.state_dict()
        self.torchvision_model.load_state_dict({name: state[name] for name in own})

    def network(self) -> nn.Module:
        """Return the torchvision model."""
        return self.torchvision_model


def _check_arguments(
    model_name: str, weights: str | None, checkpoint_path: str, kwargs: dict
) -> None:
    from torchvision import models

    check_name(model_name, models.list_models(module=models), 'torchvision.models')
    if weights and checkpoint_path:
        raise ValueError('Both weights and checkpoint_path are given. Choose one.')
    if 'num_classes' in kwargs:
        raise ValueError(
            'PooledTorchvisionBackbone takes no num_classes: it gives pooled '
            'features. Set the classes in the head.'
        )
    if weights is not None:
        known = [weight.name for weight in models.get_model_weights(model_name)]
        if str(weights).split('.')[-1] not in [*known, 'DEFAULT']:
            raise ValueError(
                f'torchvision has no weights {weights!r} for {model_name}. There are '
                f'DEFAULT, {", ".join(known)}; a local file goes into '
                'checkpoint_path.'
            )


def _built_for(model_name: str, weights: str | None) -> dict[str, Any]:
    """Return the options that torchvision adds to build a model for certain weights."""
    from torchvision import models

    if weights is None:
        return {}
    chosen = models.get_model_weights(model_name)[str(weights).split('.')[-1]]
    if model_name in WITH_AUXILIARIES:
        return dict(transform_input=True, init_weights=False)
    if model_name.startswith('vit_'):
        return dict(image_size=chosen.meta['min_size'][0])
    if model_name.startswith('maxvit_'):
        return dict(input_size=chosen.meta['min_size'])
    return {}


def _remove_classifier(model: nn.Module) -> str:
    """Replace the last layer, a linear or a convolution over classes, and return its name."""
    name = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, nn.Identity())
    return name
