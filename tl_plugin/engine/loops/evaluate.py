from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from tl_plugin.stack.protocol import TARGET, announce_domain


@torch.no_grad()
def evaluate(
    runner: Runner,
    loop: Any,
    only: Collection[str] | None = None,
    hear: Callable[[str, Sequence], Any] | None = None,
) -> dict[str, Any]:
    """What a validation or test loop would find now, beside the run: no hook hears of it.

    Args:
        runner: The runner.
        loop: A ``ValLoop`` or ``TestLoop``, or one of ours over several domains.
        only: Of several domains evaluate these alone. Defaults to None, all.
        hear: Called with the domain ('' where there is only one) and each batch's predictions.
            Defaults to None.

    Returns:
        Metrics by name.
    """
    model = runner.model
    modes = {module: module.training for module in model.modules()}
    model.eval()
    found = {}
    domains = getattr(loop, 'domains', {'': (loop.dataloader, loop.evaluator)})
    for name, (loader, evaluator) in domains.items():
        announce_domain(model, name or TARGET)
        for batch in loader:
            with autocast(enabled=loop.fp16):
                outputs = model.val_step(batch)
            if hear is not None:
                hear(name, outputs)
            evaluator.process(data_samples=outputs, data_batch=batch)
        metrics = evaluator.evaluate(len(loader.dataset))
        prefix = f'{name}/' if name else ''
        found.update({f'{prefix}{key}': value for key, value in metrics.items()})
    announce_domain(model, TARGET)
    for module, mode in modes.items():
        module.training = mode
    return found
