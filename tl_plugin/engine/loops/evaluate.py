from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from .domain_eval_loop import TARGET, announce_domain


@torch.no_grad()
def evaluate(runner: Runner, loop: Any) -> dict[str, Any]:
    """What a validation or test loop would find now, beside the run: no hook hears of it.

    Args:
        runner: The runner.
        loop: A ``ValLoop`` or ``TestLoop``, or one of ours over several domains.

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
            evaluator.process(data_samples=outputs, data_batch=batch)
        metrics = evaluator.evaluate(len(loader.dataset))
        prefix = f'{name}/' if name else ''
        found.update({f'{prefix}{key}': value for key, value in metrics.items()})
    announce_domain(model, TARGET)
    for module, mode in modes.items():
        module.training = mode
    return found
