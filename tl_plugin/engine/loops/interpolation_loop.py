"""Runs without training steps: a model as it is, and interpolation between two models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import LOOPS

from tl_plugin.reliability.checkpoints import checkpoint_weights, resumes
from tl_plugin.reliability.ranks import on_main_process
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.protocol import SOURCE, TARGET

from ..interpolation import ALPHAS, Interpolation, Soup
from ..interpolation_choice import LABEL_FREE, check_rule, choose, write_interpolation
from ..monitors import Monitor


@LOOPS.register_module()
class NoTrainingLoop(EpochBasedTrainLoop):
    """Train nothing: validate and save the model that ``load_from`` and hooks give.

    It is one epoch without iterations. A run starts, resumes, validates, writes its checkpoint and
    is tested as any other, so that it can be compared with training runs. ``AdaBNHook`` in it
    adapts a source model and does nothing else. No weight requires a gradient.

    Args:
        runner: The runner.
        dataloader: The config's ``train_dataloader``; no batch of it is read.

    Attributes:
        resumes_exactly: Its one epoch is done or begins again, for ``ExactResumeHook``.
    """

    resumes_exactly = True

    def __init__(self, runner: Any, dataloader: Any) -> None:
        super().__init__(runner, dataloader, max_epochs=1)
        self._max_iters = 0

    def run_epoch(self) -> None:
        """Change the model, then let hooks do so."""
        model = unwrap(self.runner.model)
        model.requires_grad_(False)
        self.runner.call_hook('before_train_epoch')
        self.change(model)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def change(self, model: Any) -> None:
        """Change the model in place; a subclass does.

        Args:
            model: The model without its wrapper, with the weights of ``load_from``.
        """


@LOOPS.register_module()
class InterpolationLoop(NoTrainingLoop):
    """Choose a model between the source model and adapted ones, by validation alone.

    With one adapted model it is on the way from the source model to that one (WiSE-FT, Wortsman et
    al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv 2109.01903), with several the
    mean of those that help (greedy soup, Wortsman et al., "Model soups", ICML 2022, arXiv
    2203.05482). The source model is the checkpoint that the run starts from (``load_from``). What
    was tried is written to the work folder: ``interpolation.json`` and ``interpolation.png``, or
    ``soup.json``.

    Args:
        runner: A runner for both models' config, whose validation is a ``DomainValLoop``.
        dataloader: The config's ``train_dataloader``: source images for batch statistics.
        adapted: Checkpoint of the adapted model, or several of models that started from the source
            model. Defaults to None, which is refused.
        target_dataloader: Target images for batch statistics; what it leaves out is inherited from
            ``train_dataloader``. Defaults to None, none.
        alphas: Weights of the one adapted model, in [0, 1]. Defaults to None, 0, 0.1, ... 1.
        rule: See :func:`~tl_plugin.engine.interpolation_choice.choose`. Defaults to 'budget'.
        budget: Points of source accuracy that may be lost. Defaults to 1.
        statistics: See :class:`~tl_plugin.engine.interpolation.Interpolation`. Defaults to None.
        statistics_images: Maximum number of images of each domain. Defaults to 1000.
        metric: The validation metric. Defaults to 'accuracy/top1'.

    Raises:
        ValueError: If there is no source model, or an argument is out of its range.
        FileNotFoundError: If there is no adapted model.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        adapted: str | Sequence[str] | None = None,
        target_dataloader: dict | None = None,
        alphas: Sequence[float] | None = None,
        rule: str = 'budget',
        budget: float = 1.0,
        statistics: Sequence[str] | None = None,
        statistics_images: int = 1000,
        metric: str = 'accuracy/top1',
    ) -> None:
        super().__init__(runner, dataloader)
        if not adapted or not (runner._load_from or resumes(runner)):
            raise ValueError(
                'interpolation lies between two models of one network: set load_from to the '
                "source model's checkpoint and train_cfg.adapted to the adapted one's"
            )
        adapted = [adapted] if isinstance(adapted, str) else [*adapted]
        if len(adapted) > 1 and alphas is not None:
            raise ValueError(
                f'alphas are parts of the way to one adapted model, and train_cfg.adapted names '
                f'{len(adapted)}, whose mean is taken: leave alphas out'
            )
        self.alphas = ALPHAS if alphas is None else tuple(alphas)
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise ValueError(f'alphas are parts of the way in [0, 1], got {self.alphas}')
        check_rule(rule, budget)
        self.adapted, self.rule, self.budget = adapted, rule, budget
        # The interpolation reads the loaders in the config: both stay what the user wrote.
        self.options = dict(
            statistics=statistics, statistics_images=statistics_images, metric=metric
        )

    def awaited_metrics(self, runner: Any) -> list[Monitor]:
        """List the metrics that it reads from validations."""
        metric = self.options['metric']
        names = {SOURCE: (metric,), TARGET: (metric, LABEL_FREE)}
        return [
            Monitor(
                'InterpolationLoop',
                'train_cfg.metric',
                metric,
                tuple(f'{domain}/{name}' for name in known),
                f'{domain}/',
            )
            for domain, known in names.items()
        ]

    def change(self, model: Any) -> None:
        """Sweep, choose, and leave the model at the chosen point."""
        source = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        adapted = {path: checkpoint_weights(path)[0] for path in self.adapted}
        if len(adapted) == 1:
            interpolation = Interpolation(self.runner, source, *adapted.values(), **self.options)
            points = list(interpolation.sweep(self.alphas))
        else:
            interpolation = Soup(self.runner, source, adapted, **self.options)
            points = list(interpolation.cook(self.rule, self.budget))
        choice = choose(points, self.rule, self.budget, interpolation.target_metric)
        interpolation.weights(choice.point)
        what = f'mean of {", ".join(choice.point.models)}'
        what = what if choice.point.models else f'alpha {choice.point.alpha:g}'
        print_log(f'Interpolation: {what}, {choice.why}.', logger='current')
        on_main_process(
            lambda: write_interpolation(
                Path(self.runner.work_dir),
                points,
                choice,
                source=str(self.runner._load_from),
                adapted=self.adapted[0] if len(self.adapted) == 1 else self.adapted,
                rule=self.rule,
                budget=self.budget,
                target_metric=interpolation.target_metric,
                **{**self.options, 'statistics': interpolation.statistics},
            )
        )
