"""Every torchvision classification model as a backbone with pooled features."""
from __future__ import annotations

from typing import Any

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
        weights: Weights that torchvision downloads: ``'DEFAULT'``, ``'IMAGENET1K_V1'``, ...
            Defaults to None: random ones.
        checkpoint_path: Local weights, ``.pth`` or ``.safetensors``; a classifier in them is
            dropped. Defaults to ''.
        init_cfg: As in mmengine. Defaults to None.
        **kwargs: What else the model takes: ``dropout``, ``stochastic_depth_prob``, ...

    Raises:
        ValueError: If the name or the weights are unknown, an argument contradicts the purpose, or
            the checkpoint doesn't fit.
        FileNotFoundError: If there's no file at ``checkpoint_path``.

    Example:
        >>> PooledTorchvisionBackbone('mobilenet_v3_small').num_features
        1024
    """

    def __init__(self, model_name: str, weights: str | None = None, checkpoint_path: str = '',
                 init_cfg: dict | list | None = None, **kwargs: Any) -> None:
        from torchvision import models

        super().__init__(init_cfg)
        _check_arguments(model_name, weights, checkpoint_path, kwargs)
        if model_name in WITH_AUXILIARIES:
            kwargs['aux_logits'] = False
        self.torchvision_model = models.get_model(model_name, weights=weights, **kwargs)
        classifier = _remove_classifier(self.torchvision_model)
        if checkpoint_path:
            load_weights(self.torchvision_model, checkpoint_path,
                         (classifier, 'aux1', 'aux2', 'AuxLogits'))
        self.settle(f'weights={weights}' if weights else checkpoint_path)

    def network(self) -> nn.Module:
        """Give the torchvision model."""
        return self.torchvision_model


def _check_arguments(model_name: str, weights: str | None, checkpoint_path: str,
                     kwargs: dict) -> None:
    from torchvision import models

    check_name(model_name, models.list_models(module=models), 'torchvision.models')
    if weights and checkpoint_path:
        raise ValueError('Both weights and checkpoint_path are given. Choose one.')
    if 'num_classes' in kwargs:
        raise ValueError('PooledTorchvisionBackbone takes no num_classes: it gives pooled '
                         'features. Set the classes in the head.')
    if weights is not None:
        known = [weight.name for weight in models.get_model_weights(model_name)]
        if str(weights).split('.')[-1] not in [*known, 'DEFAULT']:
            raise ValueError(f'torchvision has no weights {weights!r} for {model_name}. There are '
                             f'DEFAULT, {", ".join(known)}; a local file goes into '
                             'checkpoint_path.')


def _remove_classifier(model: nn.Module) -> str:
    """Replace the last layer, a linear or a convolution over classes, and give its name."""
    name = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, nn.Identity())
    return name
