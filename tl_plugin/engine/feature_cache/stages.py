"""The last of mmpretrain's stages up to which nothing trains, and training from there on."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten, tree_unflatten

from tl_plugin.stack.messages import short_list
from tl_plugin.stack.model_wrappers import parameters, unwrap
from tl_plugin.stack.protocol import SOURCE, adaptation_model

from ..layers.module_kinds import is_droppath

_INSTEAD = 'or use feature_extraction, which caches nothing'


def freezing_hooks(runner: Runner) -> list:
    """Return the hooks that keep a part of the model frozen."""
    return [hook for hook in runner.hooks if hasattr(hook, 'apply_modes')]


def check_cacheable(runner: Runner) -> None:
    """Check that the features of a model can be computed once.

    Args:
        runner: With its model in the modes of training.

    Raises:
        NotImplementedError: For sharded and compiled models, and those without stages.
        ValueError: If something in the backbone trains or is random.
    """
    model, kind = unwrap(runner.model), type(runner.model).__name__
    if is_model_wrapper(runner.model) and 'DistributedDataParallel' not in kind:
        raise NotImplementedError(
            f'cached features need a model that is whole on each rank, {kind} divides it: use DDP, '
            f'{_INSTEAD}'
        )
    if runner.cfg.get('compile'):
        raise NotImplementedError(
            'cached features need a model that is not compiled: remove `compile` from the config'
        )
    extract = getattr(model, 'extract_feat', None)
    if extract is None or 'stage' not in inspect.signature(extract).parameters:
        raise NotImplementedError(
            f'cached features need extract_feat(stage=...), which {type(model).__name__} lacks: '
            "use ImageClassifier (with a TIMMBackbone for timm's networks), "
            f'{_INSTEAD}'
        )
    for hook in freezing_hooks(runner):
        if not hook.fixed:
            raise ValueError(
                f'{type(hook).__name__} unfreezes layers during the run, and cached features need '
                f'layers that stay frozen: use FreezeHook, {_INSTEAD}'
            )
    _check_backbone(model.backbone)
    adapting = adaptation_model(model)
    if adapting is not None and adapting.losses_on_images():
        raise ValueError(
            f'the losses {", ".join(adapting.losses_on_images())} look at the images, which cached '
            'features replace: use feature_extraction, which caches nothing, or l2_sp, which looks '
            'at weights alone'
        )
    augments = getattr(model.data_preprocessor, 'batch_augments', None)
    if augments is not None:
        print_log(
            f'Batch augmentations ({", ".join(type(a).__name__ for a in augments.augments)}) mix '
            'images, which cannot be done with cached features: they are left out.',
            logger='current',
            level=logging.WARNING,
        )


def _check_backbone(backbone: nn.Module) -> None:
    trained = [name for name, value in parameters(backbone).items() if value.requires_grad]
    if trained:
        raise ValueError(
            'features are cached behind the backbone, and a part of it trains: '
            f"{short_list(trained)}. Freeze all of it with FreezeHook(layers=':-1', "
            f"norm_affine='frozen'), {_INSTEAD}"
        )
    moving = next((name for name, part in backbone.named_modules() if is_variable(part)), None)
    if moving is not None:
        raise ValueError(
            f'backbone.{moving} is a {type(backbone.get_submodule(moving)).__name__} in training '
            'mode, so that the features change from step to step. Set norm, dropout and droppath '
            f"of FreezeHook to 'eval', {_INSTEAD}"
        )


def is_variable(module: nn.Module) -> bool:
    """Whether the output of a module, by itself and in its present mode, varies for equal inputs.

    >>> is_variable(nn.BatchNorm2d(4)), is_variable(nn.BatchNorm2d(4).eval())
    (True, False)
    """
    if not module.training:
        return False
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) or is_droppath(module)
    return isinstance(module, _NormBase) or (
        dropout and bool(getattr(module, 'p', getattr(module, 'drop_prob', 1)))
    )


class Stage:
    """The last stage of ``model.extract_feat`` up to which nothing trains.

    Args:
        model: The unwrapped classifier, in the modes of training.
        data: What the data preprocessor gives for a few images.
        context: Returns the context of a training step, for mixed precision.

    Attributes:
        name: 'backbone', 'neck' or 'pre_logits'.
        modules: The modules that need not run any more, by name.
        features: The tensors that the stage gives for ``data``.

    Raises:
        ValueError: If the features of an image depend on the other images of the batch.
    """

    def __init__(self, model: nn.Module, data: dict, context: Callable) -> None:
        self.model, self._context = model, context
        self.name = self._find(data['inputs'])
        count = 1 + ('backbone', 'neck', 'pre_logits').index(self.name)
        parts = [(name, getattr(model, name, None)) for name in ('backbone', 'neck', 'head')]
        self.modules = {name: part for name, part in parts[:count] if part is not None}
        with torch.no_grad(), self._in_step():
            output = model.extract_feat(data['inputs'], stage=self.name)
        self._leaves, self._spec = tree_flatten(output)
        self.features = _tensors(self._leaves)
        self._image = torch.full_like(data['inputs'].flatten()[0], float('nan'))
        self._shape = data['inputs'].shape[1:]
        alone = self.extract(data['inputs'][:-1])
        if not all(map(_is_of_first_rows, alone, self.features)):
            raise ValueError(
                f'the output of {type(model.backbone).__name__} is not one row an image, or '
                'depends on the other images of the batch, so that it cannot be cached: use '
                'feature_extraction, which caches nothing'
            )

    def _find(self, inputs: Tensor) -> str:
        neck, head = getattr(self.model, 'neck', None), getattr(self.model, 'head', None)
        if neck is not None and not _is_fixed(neck):
            return 'backbone'
        before_head = 'backbone' if neck is None else 'neck'
        reads_neck = getattr(self.model, 'feature_stage', '') == 'neck'
        frozen = head is not None and any(not v.requires_grad for v in head.parameters())
        if not frozen or reads_neck or any(map(is_variable, head.modules())):
            return before_head
        with torch.enable_grad(), self._in_step():
            output = self.model.extract_feat(inputs, stage='pre_logits')
        trained = any(value.requires_grad for value in _tensors(tree_flatten(output)[0]))
        return before_head if trained else 'pre_logits'

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Set the precision of training and, where statistics are kept by domain, the source's."""
        with self._context(), self.statistics():
            yield

    def statistics(self) -> Any:
        """Return a context with the running statistics with which features are made."""
        adapting = adaptation_model(self.model)
        return nullcontext() if adapting is None else adapting.statistics_of(SOURCE)

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters and buffers on which features depend, by name."""
        found = {}
        for name, module in self.modules.items():
            for key, value in module.named_parameters():
                # The last layer of a head, which trains, comes after 'pre_logits'.
                if name != 'head' or not value.requires_grad:
                    found[f'{name}.{key}'] = value
            found.update((f'{name}.{key}', value) for key, value in module.named_buffers())
        return found

    @torch.no_grad()
    def extract(self, inputs: Tensor) -> list[Tensor]:
        """Compute the features of preprocessed images, (N, ...) each."""
        with self._in_step():
            output = self.model.extract_feat(inputs, stage=self.name)
        return _tensors(tree_flatten(output)[0])

    def images(self, size: int) -> Tensor:
        """NaN in the shape of a batch of images, without memory of its own."""
        return self._image.expand(size, *self._shape)

    @contextmanager
    def replaced(self, features: list[Tensor]) -> Iterator[None]:
        """Let the model continue from cached features, whatever images it gets.

        Args:
            features: As :meth:`extract` gives them.
        """
        given = iter(features)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        output = tree_unflatten(leaves, self._spec)
        outputs = dict.fromkeys(self.modules)  # None up to the stage
        outputs[list(outputs)[-1]] = output
        methods = [(self.model.data_preprocessor, 'forward', lambda data, training=False: {**data})]
        for name, value in outputs.items():
            method = 'pre_logits' if name == 'head' else 'forward'
            methods.append((self.modules[name], method, lambda *_, value=value, **__: value))
        for module, method, function in methods:
            vars(module)[method] = function
        try:
            yield
        finally:
            for module, method, _ in methods:
                del vars(module)[method]


def _is_fixed(module: nn.Module) -> bool:
    trained = any(value.requires_grad for value in module.parameters())
    return not trained and not any(map(is_variable, module.modules()))


def _tensors(leaves: list) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _is_of_first_rows(alone: Tensor, batch: Tensor) -> bool:
    if len(alone) + 1 != len(batch):
        return False
    alone, batch = alone.float(), batch[:-1].float()
    return torch.allclose(alone, batch, rtol=1e-3, atol=1e-3 * float(batch.abs().max()))
