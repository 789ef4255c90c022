"""Finds the last point of a forward pass up to which nothing trains, and goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from tl_plugin.stack.model_wrappers import parameters

from .calls import Call, Stub, recorded_calls, replayed

#: How many images the forward passes have by which a cut is found and proved.
PROBE = (2, 3)


class Step(NamedTuple):
    """What a training step comes to: losses, and gradients of all that trains."""

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor | None]


class Cut:
    """A point of the forward pass behind which it can be taken up again.

    Args:
        model: The unwrapped model.
        calls: The calls of fixed modules up to the cut, for the larger probe.
        stubs: Stand-ins for them.
        inputs: The images of the larger probe.

    Attributes:
        name: The module behind which the cut lies.
        features: What that module puts out for the larger probe, its tensors alone.
        covered: Names of all modules that needn't run any more.
    """

    def __init__(
        self, model: nn.Module, calls: Sequence[Call], stubs: Sequence[Stub], inputs: Tensor
    ) -> None:
        self.model = model
        self.name = calls[-1].name
        self.features = calls[-1].tensors()
        self.covered = list(dict.fromkeys(call.name for call in calls))
        self._last = calls[-1]
        self._stubs = stubs[:-1]
        known = dict(model.named_modules())
        self._modules = [known[call.name] for call in calls]
        self._image = torch.full((), float('nan'), dtype=inputs.dtype, device=inputs.device)
        self._shape = inputs.shape[1:]
        self._made: dict[int, list] = {}

    def images(self, size: int) -> Tensor:
        """What goes in for images: poisoned, (size, C, H, W), without memory of its own."""
        return self._image.expand(size, *self._shape)

    def replayed(self, features: Sequence[Tensor]) -> Any:
        """A context in which the model goes on from features, whatever images go in.

        Args:
            features: The tensors that the module at the cut would put out, the batch first.
        """
        size = len(features[0])
        if size not in self._made:
            self._made[size] = [stub.output(size) for stub in self._stubs]
        given = iter(features)
        leaves = [next(given) if isinstance(v, Tensor) else v for v in self._last.leaves]
        output = tree_unflatten(leaves, self._last.spec)
        return replayed(self._modules, [*self._made[size], output], self.model.data_preprocessor)

    @torch.no_grad()
    def run(self, data: dict) -> list[Tensor]:
        """Runs the model up to the cut.

        Args:
            data: What the data preprocessor gives.

        Returns:
            The features, the batch first.
        """
        last = self._modules[-1]
        number = sum(module is last for module in self._modules)
        found: list = []

        def stop(module: nn.Module, inputs: tuple, output: Any) -> None:
            found.append(output)
            if len(found) == number:
                raise _Reached

        handle = last.register_forward_hook(stop)
        try:
            self.model(**data, mode='loss')
        except _Reached:
            leaves = torch.utils._pytree.tree_leaves(found[-1])
            return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        finally:
            handle.remove()
        raise RuntimeError(
            f'the forward pass did not come to {self.name}, behind which features were to be cached'
        )


class _Reached(Exception):
    """The forward pass has come to the cut."""


def find_cut(model: nn.Module, data: dict, context: Callable) -> Cut:
    """Finds the deepest module behind which the forward pass is a plain chain.

    Each candidate is proved: with the images and all that runs before it poisoned by NaN, the step
    must come to the same losses and gradients.

    Args:
        model: The unwrapped model, in the modes of training.
        data: What the data preprocessor gives for ``PROBE[1]`` images.
        context: Makes the context of a step, for mixed precision.

    Returns:
        The cut.

    Raises:
        ValueError: If there is none.
    """
    with _nothing_kept(model), torch.random.fork_rng():
        with recorded_calls(model) as small:
            _step(model, _first(data, PROBE[0]), context)
        with recorded_calls(model) as large:
            wanted = _step(model, data, context)
        stubs, reasons = _stubs(small, large)
        for last in reversed(range(len(stubs))):
            cut = Cut(model, large[: last + 1], stubs[: last + 1], data['inputs'])
            reason = _unfit(small[last], large[last]) or _differs(cut, data, context, wanted)
            if reason is None:
                return cut
            reasons.append(f'{cut.name}: {reason}')
    raise ValueError(
        'found no point behind which features could be cached: what trains needs more than the '
        f'output of one frozen module ({"; ".join(reasons[-3:]) or "no module is frozen"}). A '
        'regularizer or an alignment that reads images or layers below the head does; so does '
        "a stem that trains. Freeze from the first layer on (layers=':-1'), or use "
        'feature_extraction, which caches nothing'
    )


def _stubs(small: list[Call], large: list[Call]) -> tuple[list[Stub], list[str]]:
    stubs: list[Stub] = []
    for pair in zip(small, large):
        try:
            stubs.append(Stub(*pair, PROBE))
        except ValueError as error:
            return stubs, [str(error)]
    return stubs, []


def _unfit(small: Call, large: Call) -> str | None:
    """Whether the output of a call could be a row an image, which depends on that image alone."""
    if not large.tensors():
        return 'it puts out no tensor'
    for one, other in zip(small.tensors(), large.tensors()):
        if one.shape[:1] != PROBE[:1] or other.shape[:1] != PROBE[1:]:
            return f'it puts out {tuple(other.shape)} for {PROBE[1]} images'
        if not _close(one, other[: PROBE[0]], 1e-3):
            return 'what it puts out for an image depends on the other images of the batch'
    return None


def _differs(cut: Cut, data: dict, context: Callable, wanted: Step) -> str | None:
    """Whether a step that goes on from the cut is another one than the whole step."""
    poisoned = dict(data, inputs=cut.images(PROBE[1]))
    try:
        with cut.replayed([value.clone() for value in cut.features]):
            found = _step(cut.model, poisoned, context)
    # Any code may run on the stand-ins; what can't take them is no point to cut at.
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    for what, one, other in zip(('loss', 'gradient'), found, wanted):
        for name in {**one, **other}:
            if not _same(one.get(name), other.get(name)):
                return f'the {what} {name} needs what comes before'
    return None


def _step(model: nn.Module, data: dict, context: Callable) -> Step:
    torch.manual_seed(0)  # what trains may have dropout
    with torch.enable_grad(), context():
        losses = model(**data, mode='loss')
        total, logged = model.parse_losses(losses)
    trained = {n: value for n, value in parameters(model).items() if value.requires_grad}
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    return Step(
        {name: value.detach() for name, value in logged.items()}, dict(zip(trained, gradients))
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and _close(one, other, 1e-4)


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    one, other = one.float(), other.float()
    scale = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale)


def _first(data: dict, count: int) -> dict:
    return {key: value[:count] for key, value in data.items()}


@contextmanager
def _nothing_kept(model: nn.Module):
    """Gives the buffers of what trains (running statistics) their values back."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
