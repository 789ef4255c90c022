"""Sets each layer's learning rate by how much the data want to change it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from tl_plugin.reliability.checkpoints import resumes
from tl_plugin.reliability.seeds import generators_kept
from tl_plugin.reporting.tables import make_table, table_text
from tl_plugin.stack.model_wrappers import evaluating, parameters, unwrap
from tl_plugin.stack.options import checked

from ..layers import LayerMap


@HOOKS.register_module()
class RelativeGradientNormHook(Hook):
    r"""Multiply each layer's learning rate by its relative gradient norm (Auto-RGN).

    Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", ICLR 2023, arXiv
    2210.11466: :math:`\eta_l = \eta \cdot R_l / \max_{l'} R_{l'}` with
    :math:`R_l = \lVert g_l \rVert / \lVert w_l \rVert`, so that the layers that fit the new data
    least move most. Measured here once, before the first step, over some batches of the
    training data, with the model in eval mode (the authors measure before every epoch). Processes
    share what they measure. A resumed run has the rates of its checkpoint.

    Needs ``optim_wrapper.constructor='LayerwiseLROptimWrapperConstructor'``, whose groups lie in
    one layer each. What that one sets stays a factor on top.

    Args:
        batches: Number of batches, of each process. Defaults to 8.

    Raises:
        ValueError: If ``batches`` is below 1, groups span layers, or a gradient isn't finite.
    """

    # Before hooks that read learning rates as training begins.
    priority = 'HIGHEST'

    @checked
    def __init__(self, batches: int = 8) -> None:
        if batches < 1:
            raise ValueError(f'RelativeGradientNormHook: batches must be at least 1, got {batches}')
        self.batches = batches

    def before_run(self, runner: Runner) -> None:
        """Refuse an optimizer whose groups span layers, before anything is loaded."""
        wrapper = getattr(runner, 'optim_wrapper', None)
        if hasattr(wrapper, 'optimizer'):
            _layer_groups(runner)
            wrapper.has_layer_rates = True  # MonitorCheckHook warns of absolute rates

    def before_train(self, runner: Runner) -> None:
        """Measure, and set the rates."""
        groups = _layer_groups(runner)
        if resumes(runner):
            return
        model = unwrap(runner.model)
        norms = self._measure(runner, model, LayerMap.from_model(model))
        largest = max(norms.values())
        factors = {depth: norm / largest for depth, norm in norms.items()}
        for place, group in groups.items():
            _scale(runner, place, group, factors.get(group['layer'], 1.0))
        _log(norms, factors, groups)

    def _measure(self, runner: Runner, model: Any, layers: LayerMap) -> dict[int, float]:
        """Return the mean relative gradient norm of each layer that trains."""
        trained = {n: v for n, v in parameters(model).items() if v.requires_grad}
        members: dict[int, list[Tensor]] = {}
        for name, value in trained.items():
            members.setdefault(layers.depth(name), []).append(value)
        sums = torch.zeros(len(members) + 1, device=next(iter(trained.values())).device)
        with generators_kept(), evaluating(model):
            for batch in self._batches(runner):
                sums[:-1] += _relative_norms(model, batch, list(members.values()))
                sums[-1] += 1
        all_reduce(sums)
        if not bool(torch.isfinite(sums).all()) or not bool(sums[:-1].any()):
            raise ValueError(
                'RelativeGradientNormHook: the gradients of the first batches are '
                f'{"all zero" if bool(torch.isfinite(sums).all()) else "not finite"}, so that no '
                'learning rate follows from them: look for broken images, or for cached features, '
                'which have no images'
            )
        means = (sums[:-1] / sums[-1]).tolist()
        return dict(zip(members, means))

    def _batches(self, runner: Runner) -> Iterator[Any]:
        """Yield the first batches of training, and let training begin with them all the same."""
        loader = runner.train_loop.dataloader
        yield from islice(iter(loader), self.batches)
        if hasattr(loader, 'seek'):
            loader.seek(0)


def _relative_norms(model: Any, batch: Any, layers: list[list[Tensor]]) -> Tensor:
    data = model.data_preprocessor(batch, True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    values = [value for layer in layers for value in layer]
    gradients = dict(zip(map(id, values), torch.autograd.grad(total, values, allow_unused=True)))
    found = []
    for layer in layers:
        own = [gradients[id(value)] for value in layer]
        reached = [g.float().square().sum() for g in own if g is not None]
        weight = sum(value.detach().float().square().sum() for value in layer)
        gradient = sum(reached) if reached else torch.zeros_like(weight)
        found.append((gradient / weight.clamp(min=1e-12)).sqrt())
    return torch.stack(found)


def _layer_groups(runner: Runner) -> dict[int, dict]:
    """Return the optimizer's groups by their place, each of one layer."""
    groups = {
        place: group
        for place, group in enumerate(runner.optim_wrapper.optimizer.param_groups)
        if group['params']
    }
    if not all('layer' in group for group in groups.values()):
        raise ValueError(
            'RelativeGradientNormHook sets a learning rate for each layer, and the groups of this '
            "optimizer span layers: set optim_wrapper.constructor='LayerwiseLROptimWrapper"
            "Constructor', as the overlay auto_rgn does"
        )
    return groups


def _scale(runner: Runner, place: int, group: dict, factor: float) -> None:
    """Scale a group's rate where optimizer and schedulers keep it."""
    for key in ('lr', 'initial_lr'):
        if key in group:
            group[key] *= factor
    for scheduler in runner.param_schedulers or []:
        if scheduler.param_name == 'lr' and place < len(scheduler.base_values):
            scheduler.base_values[place] *= factor


def _log(norms: dict[int, float], factors: dict[int, float], groups: dict[int, dict]) -> None:
    rates = {group['layer']: group.get('initial_lr', group['lr']) for group in groups.values()}
    rows = [
        (f'{depth}', f'{norms[depth]:.4g}', f'{factors[depth]:.3f}', f'{rates[depth]:.4g}')
        for depth in sorted(norms, reverse=True)
    ]
    title = 'Relative gradient norms, the head first'
    columns = ('layer', 'gradient / weight', 'factor', 'lr')
    print_log(table_text(make_table(title, columns, rows)), logger='current')
