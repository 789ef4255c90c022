"""Every timm architecture as a backbone with pooled features."""

from __future__ import annotations

import sys
from typing import Any

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from tl_plugin.stack.foreign_weights import StateDict

from .pooled import PooledBackbone, check_name
from .weights import load_weights


@MODELS.register_module()
class PooledTimmBackbone(PooledBackbone):
    """Any timm model as a backbone that gives one pooled vector per image.

    Pooling is timm's own, the one that the model was trained with, whether its features are maps
    (N, C, H, W) or (N, H, W, C), tokens, or already pooled. A head needs no neck before it. The
    network lies under ``timm_model``, as in mmpretrain's ``TIMMBackbone``.

    Args:
        model_name: A name from ``timm.list_models()``, perhaps with a tag of pretrained weights
            (``'resnet18.a1_in1k'``), or ``'hf-hub:...'`` or ``'local-dir:...'``.
        pretrained: Whether training begins with timm's pretrained weights, which
            ``init_weights`` downloads. Defaults to False.
        checkpoint_path: Local weights that training begins with, loaded in ``init_weights``:
            ``.pth`` or ``.safetensors``, of timm, mmengine or other training programs; a
            classifier in them is dropped. Defaults to ''.
        in_channels: Number of image channels; pretrained weights are adapted. Defaults to 3.
        init_cfg: As in mmengine. Defaults to None.
        **kwargs: What else the timm model takes: ``drop_rate``, ``drop_path_rate``, ``img_size``,
            ``global_pool``, ...

    Raises:
        TypeError: If ``pretrained`` isn't a bool.
        ValueError: If the name is unknown or an argument contradicts the purpose; in
            ``init_weights``, if the checkpoint doesn't fit.
        FileNotFoundError: In ``init_weights``, if there's no file at ``checkpoint_path``.

    Example:
        >>> import torch
        >>> backbone = PooledTimmBackbone('mobilenetv3_small_050', drop_path_rate=0.1)
        >>> backbone.num_features
        1024
        >>> [tuple(feature.shape) for feature in backbone(torch.rand(2, 3, 64, 64))]
        [(2, 1024)]
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        checkpoint_path: str = '',
        in_channels: int = 3,
        init_cfg: dict | list | None = None,
        **kwargs: Any,
    ) -> None:
        import timm

        super().__init__(init_cfg)
        _check_arguments(model_name, pretrained, checkpoint_path, kwargs)
        # 'hf-hub:' and 'local-dir:' names say where the architecture is written.
        self._options = dict(model_name=model_name, in_chans=in_channels, num_classes=0, **kwargs)
        self._checkpoint_path = checkpoint_path
        self.timm_model = _without_classes(timm.create_model(**self._options))
        self.settle('pretrained=True' if pretrained else str(checkpoint_path))

    def load_initial_weights(self) -> None:
        """Load ``checkpoint_path``, or what timm gives a model with ``pretrained=True``."""
        if self._checkpoint_path:
            load_weights(
                self.timm_model,
                self._checkpoint_path,
                removed_modules(self.timm_model),
                lambda state: _as_timm(state, self.timm_model),
            )
            return
        import timm

        # Each architecture has its own conversion of files in timm, hence a second model.
        with torch.random.fork_rng(devices=[]):
            pretrained = _without_classes(timm.create_model(**self._options, pretrained=True))
        self.timm_model.load_state_dict(pretrained.state_dict())

    def network(self) -> nn.Module:
        """Return the timm model."""
        return self.timm_model

    def pool(self, features: Tensor) -> Tensor:
        """Average what timm hasn't pooled: the few models that pool no features themselves.

        Args:
            features: (N, D), tokens (N, L, D), or maps in the model's ``output_fmt``.

        Returns:
            (N, D).
        """
        if features.ndim == 3:
            return features[:, getattr(self.timm_model, 'num_prefix_tokens', 0) :].mean(1)
        if features.ndim == 4:
            last = str(getattr(self.timm_model, 'output_fmt', 'NCHW')) == 'NHWC'
            return features.mean((1, 2) if last else (2, 3))
        return features


def _without_classes(model: nn.Module) -> nn.Module:
    """Take away a classifier of no classes.

    Up to timm 1.0.30, networks of InceptionNeXt are built with one, whose output is empty.
    """
    if not all(parameter.numel() for parameter in model.parameters()):
        model.reset_classifier(0)
    return model


def _check_arguments(model_name: str, pretrained: bool, checkpoint_path: str, kwargs: dict) -> None:
    import timm

    if not isinstance(pretrained, bool):
        raise TypeError(
            f'pretrained must be True or False, got {pretrained!r}. Local weights go '
            'into checkpoint_path.'
        )
    if pretrained and checkpoint_path:
        raise ValueError('Both pretrained=True and checkpoint_path are given. Choose one.')
    for name in ('num_classes', 'features_only'):
        if name in kwargs:
            raise ValueError(
                f'PooledTimmBackbone takes no {name}: it gives pooled features. Set '
                'the classes in the head; for feature maps use TIMMBackbone.'
            )
    if ':' not in model_name and not timm.is_model(model_name):  # no 'hf-hub:' or 'local-dir:'
        check_name(model_name.split('.')[0], timm.list_models(), 'timm')


def removed_modules(model: nn.Module) -> list[str]:
    """Name the modules that timm left out of a model without classes.

    Args:
        model: A timm model built with ``num_classes=0``.

    Returns:
        Their names. Of ``'head.linear'`` it is ``'head'`` where all of the head is gone.
    """
    modules = dict(model.named_modules())
    names = []
    for classifier in _as_tuple(getattr(model, 'pretrained_cfg', {}).get('classifier')):
        parts = classifier.split('.')
        paths = ['.'.join(parts[:i]) for i in range(1, len(parts) + 1)]
        names.append(
            next(
                (path for path in paths[:-1] if isinstance(modules.get(path), nn.Identity)),
                classifier,
            )
        )
    # A distilled model has a second one, which not every config of timm mentions.
    found = model.get_classifier() if hasattr(model, 'get_classifier') else ()
    found = found if isinstance(found, (tuple, list)) else (found,)
    names += [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Identity) and any(module is part for part in found)
    ]
    return list(dict.fromkeys(names))


def _as_tuple(names: str | tuple | list | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _as_timm(state: StateDict, model: nn.Module) -> StateDict:
    """Convert a checkpoint as timm does it when it downloads one."""
    from timm.models import adapt_input_conv

    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    state = convert(state, model) if convert else dict(state)
    own = model.state_dict()
    for name in _as_tuple(getattr(model, 'pretrained_cfg', {}).get('first_conv')):
        name = f'{name}.weight'
        if name in state and name in own and state[name].shape != own[name].shape:
            state[name] = adapt_input_conv(own[name].shape[1], state[name])
    return state
