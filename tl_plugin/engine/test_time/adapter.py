"""One model, adapted batch by batch while it predicts: Tent and SAR."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn

from tl_plugin.functional import (
    ascent_steps,
    effective_classes,
    marginal_entropy,
    order_dependence,
    prediction_entropy,
    reliable_entropy,
)

from ..batch_statistics import norm_layers
from ..layers import LayerMap
from .batch_norms import moments_of, normalising_by_batch, parameters_of_norms
from .options import TestTimeOptions

#: A normal deviate that a random order exceeds once in ten times, in each of two tests. To leave a
#: batch to the source model costs little; to learn from one in an order by class costs a lot.
_BY_CHANCE = 1.28


class TestTimeAdapter:
    """Adapt the norm layers of a model to the images that it predicts.

    Each batch is predicted by the source model and by the adapted one; one step then lowers the
    entropy of the adapted predictions. See :class:`TestTimeClassifier` for the options. All
    processes take the same steps.

    Args:
        model: The classifier without its wrapper, in eval mode, with the source model's weights.
        predict: Returns its logits, (N, K), for preprocessed images.
        options: The options.

    Raises:
        ValueError: If the model has no norm layer with weights.

    Attributes:
        events: How many batches were seen, served by the source model, how many steps were taken,
            and resets by reason.
    """

    __test__ = False  # no test, whatever pytest thinks of its name

    def __init__(
        self, model: nn.Module, predict: Callable[[Tensor], Tensor], options: TestTimeOptions
    ) -> None:
        self.model, self.predict, self.options = model, predict, options
        self.batch_norms = norm_layers(model)
        self.weights = self._affine()
        self._moments = moments_of(self.batch_norms)
        self._source = [value.detach().clone() for value in self._state()]
        self.events: Counter = Counter()
        self._recent: Tensor | None = None
        self._last: Tensor | None = None
        self._new = 0
        self._begin_again()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits of a batch, and learn from it.

        Args:
            inputs: Preprocessed images, (N, C, H, W).
        """
        # Out of the modes in which testing runs: no gradient, half precision, inference tensors.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(inputs.device.type, enabled=False),
        ):
            return self._serve(inputs.detach().clone().float())

    def reset(self, reason: str) -> None:
        """Go back to the source model.

        Args:
            reason: Why, for the log.
        """
        for value, source in zip(self._state(), self._source):
            value.data.copy_(source)
        self.events[f'reset: {reason}'] += 1
        print_log(f'Test-time adaptation goes back to the source model: {reason}.', 'current')
        self._begin_again()

    def _begin_again(self) -> None:
        self._velocity = [torch.zeros_like(value) for value in self.weights.values()]
        self._average: float | None = None
        self._counts: dict[str, Tensor] = {}
        self._gain: Tensor | None = None
        self._told: Tensor | None = None

    def _serve(self, inputs: Tensor) -> Tensor:
        options = self.options
        seen, interval = self.events['batches'], options.reset_interval
        if interval and seen and not seen % interval:
            self.reset(f'every {interval} batches')
        self.events['batches'] += 1
        images = self._with_recent(inputs)
        with self._source_in_place(), torch.no_grad():
            everything = self.predict(inputs if images is None else images)
        source = everything[-len(inputs) :]
        stands = not self.batch_norms or (
            images is not None and self._is_mixed(everything, len(inputs))
        )
        self._new += self._count('stream', source)
        if not stands:
            return self._served_by_source(source)
        logits = self._learn(images)[-len(inputs) :].detach()
        self._count('source', source)
        self._count('adapted', logits)
        if self._has_collapsed():
            self.reset('the adapted predictions have collapsed')
            return self._served_by_source(source)
        return logits if self._tells_more(logits, source) else self._served_by_source(source)

    def _served_by_source(self, logits: Tensor) -> Tensor:
        self.events['served by the source model'] += 1
        return logits

    def _learn(self, images: Tensor) -> Tensor:
        """Take one step on the entropy of a batch; return the logits from before it.

        Where the last images stand beside small batches, none is taken until enough new ones have
        come: a step for each batch would be on the same images again and again.
        """
        options, weights = self.options, [*self.weights.values()]
        if self.batch_norms and self._new < options.min_batch:
            with self._by_batch(track=True), torch.no_grad():
                return self.predict(images)
        self._new = 0
        with self._training():
            with self._by_batch(track=True):
                logits = self.predict(images)
            entropy, kept = reliable_entropy(logits, options.margin)
            loss, count, gradients = self._gradients(entropy, kept)
            if count and options.rho:
                steps = ascent_steps(gradients, options.rho)
                _add(weights, steps)
                with self._by_batch(track=False):
                    entropy, still = reliable_entropy(self.predict(images), options.margin)
                loss, count, gradients = self._gradients(entropy, kept & still)
                _add(weights, steps, -1)
        if count:
            self._step(gradients)
            self._follow(loss)
        return logits

    def _gradients(self, entropy: Tensor, kept: Tensor) -> tuple[float, int, list[Tensor]]:
        """Return the mean entropy of the images that are kept, their number, and its gradients.

        Those of a small batch count in proportion to its size, as in SAR's own code.
        """
        total = (entropy * kept).sum()
        found = torch.autograd.grad(total, [*self.weights.values()], allow_unused=True)
        gradients = [
            torch.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(self.weights.values(), found)
        ]
        sums = torch.stack([total.detach(), kept.sum().to(total), total.new_tensor(len(kept))])
        for tensor in (sums, *gradients):
            all_reduce(tensor)
        loss, count, images = sums.tolist()
        share = min(1.0, images / self.options.min_batch) / max(count, 1)
        mean = [gradient * share for gradient in gradients]
        return loss / max(count, 1), int(count), mean

    def _step(self, gradients: list[Tensor]) -> None:
        self.events['steps'] += 1
        for value, velocity, gradient in zip(self.weights.values(), self._velocity, gradients):
            velocity.mul_(self.options.momentum).add_(gradient)
            value.data.add_(velocity, alpha=-self.options.lr)

    def _follow(self, loss: float) -> None:
        """Go back where the moving average of the loss is too low to be true (SAR)."""
        before = self._average
        self._average = loss if before is None else 0.9 * before + 0.1 * loss
        least = self.options.min_entropy * math.log(self._num_classes)
        if self._average < least and before is not None:
            self.reset('the moving average of the entropy is too low')

    @property
    def _num_classes(self) -> int:
        return len(self._counts['stream'])

    def _count(self, whose: str, logits: Tensor) -> int:
        """Add a batch's predicted classes to the counts of the last images, of all processes.

        Returns:
            Images of the batch, in all processes.
        """
        new = logits.detach().argmax(1).bincount(minlength=logits.shape[1]).float()
        all_reduce(new)
        old = self._counts.get(whose, torch.zeros_like(new))
        count = int(new.sum())
        self._counts[whose] = max(0.0, 1 - count / self.options.memory) * old + new
        return count

    def _is_mixed(self, source: Tensor, new: int) -> bool:
        """Whether the statistics of a batch stand for the domain: its classes are those of all.

        In a stream that nobody has shuffled, a batch is of few classes, and of others than the
        batches before it. Where the source model is often wrong, its predictions hide that; but
        those of near images are more alike than by chance, in this batch or in the last ones.
        """
        if self.options.guard != 'source':
            return True
        counts = source.argmax(1).bincount(minlength=source.shape[1]).float()
        last = source[-new:] if self._last is None else torch.cat([self._last, source[-new:]])
        self._last = last[-max(self.options.memory, 2 * len(source)) :]
        order = torch.stack([*order_dependence(source), *order_dependence(self._last)])
        sizes = counts.new_tensor([len(source), len(self._last)])
        for value in (counts, order, sizes):
            all_reduce(value)
        here, spread, lately, lately_spread = order.tolist()
        if here > _BY_CHANCE * spread**0.5 or lately > _BY_CHANCE * lately_spread**0.5:
            return False
        # A first batch of one class is like any other, until the next one is of another class.
        if sizes[1] < 2 * sizes[0]:
            return False
        possible, least = min(len(counts), float(counts.sum())), self.options.min_balance
        if float(effective_classes(counts)) < least * possible:
            return False
        before = self._counts.get('stream', counts)
        shared = torch.minimum(counts / counts.sum(), before / before.sum()).sum()
        return float(shared) >= least

    def _tells_more(self, adapted: Tensor, source: Tensor) -> bool:
        """Whether adapted predictions carry more information about the class than the source's.

        It is the mutual information of image and class, marginal entropy minus mean entropy,
        averaged over the last batches. A small batch is looked at with the predictions before it:
        one image alone tells nothing of the classes.
        """
        if self.options.guard != 'source':
            return True
        both, least = torch.stack([adapted, source]), self.options.min_batch
        if len(source) < least and self._told is not None:
            both = torch.cat([self._told, both], 1)
        self._told = both[:, -max(self.options.window, least) :]
        gain = torch.stack(
            [marginal_entropy(logits) - prediction_entropy(logits).mean() for logits in both]
        )
        all_reduce(gain)
        share = min(1.0, len(source) / self.options.memory)
        before = gain if self._gain is None else self._gain
        self._gain = (1 - share) * before + share * gain
        return float(self._gain[0]) > float(self._gain[1])

    def _has_collapsed(self) -> bool:
        """Whether the adapted model predicts far fewer classes than the source model."""
        if self.options.guard == 'none':
            return False
        adapted, source = (effective_classes(self._counts[key]) for key in ('adapted', 'source'))
        return float(adapted) < self.options.min_balance * float(source)

    def _with_recent(self, inputs: Tensor) -> Tensor | None:
        """Return the images to normalise by: the batch, filled up by the last ones if it is small.

        Raises:
            ValueError: If the batch is smaller than ``min_batch`` and ``window`` is 0.
        """
        least, window = self.options.min_batch, self.options.window
        if not self.batch_norms:
            return inputs
        images, recent = inputs, self._recent
        if len(inputs) < least:
            if not window:
                raise ValueError(
                    f'a batch of {len(inputs)} images has no statistics for batch norm: predict '
                    f'batches of {least} or more, or let the last images stand beside it '
                    '(model.test_time.window=64)'
                )
            if recent is not None and recent.shape[1:] == inputs.shape[1:]:
                images = torch.cat([recent, inputs])[-max(window, len(inputs)) :]
        if window:
            self._recent = images[-window:]
        return images if len(images) >= least else None

    def _by_batch(self, track: bool) -> Any:
        if not self.batch_norms:
            return nullcontext()
        return normalising_by_batch(self._moments, self.options.prior, track)

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Let the norms alone require a gradient."""
        before = [(value, value.requires_grad) for value in self.model.parameters()]
        own = {id(value) for value in self.weights.values()}
        try:
            for value, _ in before:
                value.requires_grad_(id(value) in own)
            yield
        finally:
            for value, trains in before:
                value.requires_grad_(trains)

    @contextmanager
    def _source_in_place(self) -> Iterator[None]:
        now = [value.detach().clone() for value in self._state()]
        try:
            for value, source in zip(self._state(), self._source):
                value.data.copy_(source)
            yield
        finally:
            for value, kept in zip(self._state(), now):
                value.data.copy_(kept)

    def _state(self) -> list[Tensor]:
        """Return all tensors that adaptation changes."""
        buffers = [(norm.running_mean, norm.running_var) for norm in self.batch_norms.values()]
        return [*self.weights.values(), *(value for pair in buffers for value in pair)]

    def _affine(self) -> dict[str, nn.Parameter]:
        layers = LayerMap.from_model(self.model)
        unused = LayerMap.training_only(self.model)
        deepest = max(1, math.ceil(self.options.depth * layers.num_layers))
        names = {
            name
            for name, _ in self.model.named_parameters()
            if not name.startswith(unused) and layers.depth(name) < deepest
        }
        found = parameters_of_norms(self.model, names)
        if not found:
            raise ValueError(
                f'test-time adaptation trains the weights of norm layers, and the first {deepest} '
                f'of {layers.num_layers} layers of this {type(self.model).__name__} have none: '
                'model.test_time.depth=1 takes all layers; a network without norms needs another '
                'strategy'
            )
        print_log(
            f'Test-time adaptation ({self.options.method}): {len(found)} tensors of norm layers, '
            f'{sum(value.numel() for value in found.values()):,} weights, in the first {deepest} '
            f'of {layers.num_layers} layers.',
            logger='current',
            level=logging.INFO,
        )
        return found


def _add(weights: list[nn.Parameter], steps: list[Tensor], factor: float = 1) -> None:
    for value, step in zip(weights, steps):
        value.data.add_(step, alpha=factor)
