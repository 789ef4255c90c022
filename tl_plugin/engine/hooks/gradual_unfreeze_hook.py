"""Freeze a part of the model and unfreeze it layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.model_wrappers import parameters
from tl_plugin.stack.options import checked

from ..freezing.plan import PhaseWarmup, UnfreezePlan, depths_text, plan_table
from ..freezing.schedules import Plateau, PlateauState, read_schedule
from ..freezing.trainable import check_in_optimizer, frozen_here
from ..layers.selection import LayerSpec
from ..monitors import Monitor
from ..optimizers.warmup import check_priority
from .freeze_hook import FreezeHook


@HOOKS.register_module()
class GradualUnfreezeHook(FreezeHook):
    """Freeze a part of any model and let it train again step by step, deepest layers first.

    What trains is a pure function of epoch or iteration, so that a resumed run goes on exactly;
    the metric-driven schedule keeps its decisions in the checkpoint. The plan is logged as a
    table before training. Under DDP all ranks wrap the model again at each step. With more than
    two ranks a resumed run equals the uninterrupted one to the bit only with
    ``find_unused_parameters=True``, and else to rounding: DDP otherwise regroups the gradients
    after its first iteration, and the grouping decides in which order the ranks are summed.

    Paper: Howard and Ruder, "ULMFiT", ACL 2018, arXiv 1801.06146 (gradual unfreezing); Kumar et
    al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
    2022, arXiv 2202.10054 (linear probe, then fine-tuning).

    Args:
        schedule: One of these. Times are whole numbers of epochs (of iterations with
            ``by_epoch=False``) or fractions of the run.

            - ``dict(every=1, begin=None, layers_per_step=1)``: a layer at a fixed interval;
            - ``dict(until=0.5, layers_per_step=1)``: evenly spread over the first half;
            - ``dict(milestones=[(5, '-3:-1'), (10, '0:-3')])``: given layers at given times;
              ``[(0.5, ':-1')]`` is a linear probe, then fine-tuning;
            - ``dict(monitor='accuracy/top1', patience=2, min_delta=0., rule=None)``: a layer each
              time the metric hasn't improved for ``patience`` validations.
        layers: Depths that are frozen at the start. Defaults to ``':-1'``, all but neck and
            head, where patterns and modules are not given either.
        patterns: Regular expressions over parameter names to freeze at the start. Defaults to
            None.
        modules: Class names of modules to freeze at the start. Defaults to None.
        warmup_iters: Iterations in which the learning rate of newly trained layers grows
            linearly to what the schedulers say. Needs optimizer groups per layer. Defaults to 0.
        norm: As in :class:`FreezeHook`. Defaults to ``'eval'``.
        norm_affine: As in :class:`FreezeHook`. Defaults to ``'frozen'``.
        dropout: As in :class:`FreezeHook`. Defaults to ``'eval'``.
        droppath: As in :class:`FreezeHook`. Defaults to ``'eval'``.
        check_ranks: Check before each step of unfreezing, and after the first optimizer step
            that follows, that all ranks hold equal weights. Defaults to False.

    Raises:
        ValueError: A schedule that overlaps itself or another hook, ends after the run, names
            layers that the model lacks or that aren't frozen, or lets train what no optimizer
            group holds.

    Example:
        >>> # in a config
        >>> custom_hooks = [dict(type='GradualUnfreezeHook', schedule=dict(until=0.5))]
    """

    fixed = False

    @checked
    def __init__(
        self,
        schedule: dict,
        layers: LayerSpec | None = None,
        patterns: str | Sequence[str] | None = None,
        modules: str | Sequence[str] | None = None,
        warmup_iters: int = 0,
        norm: str = 'eval',
        norm_affine: str = 'frozen',
        dropout: str = 'eval',
        droppath: str = 'eval',
        check_ranks: bool = False,
    ) -> None:
        if layers is None and patterns is None and modules is None:
            layers = ':-1'
        super().__init__(
            layers, patterns, modules, norm, norm_affine, dropout, droppath, check_ranks
        )
        if not isinstance(warmup_iters, int) or warmup_iters < 0:
            raise ValueError(f'warmup_iters={warmup_iters!r}: expected a number of iterations.')
        self.schedule = read_schedule(schedule)
        self.warmup_iters = warmup_iters
        self._warmup: PhaseWarmup | None = None
        self._plateau: PlateauState | None = None
        self._begun = 0
        self._training = False

    def before_run(self, runner: Runner) -> None:
        """Freeze and make the plan."""
        first = not self.initially_frozen
        super().before_run(runner)
        if not first or not self.initially_frozen:
            return
        if self.warmup_iters:
            check_priority(self)
        phases = self.schedule.phases(self.layer_map, sorted(self.initially_frozen))
        length = runner.max_epochs if self.schedule.by_epoch else runner.max_iters
        if self.schedule.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            length = 1
        self.plan = UnfreezePlan.make(self.schedule, phases, length)
        check_in_optimizer(runner, sorted(self.initially_frozen & frozen_here(runner.model)))
        if isinstance(self.schedule, Plateau):
            self._plateau = PlateauState(runner, self)

    def before_train(self, runner: Runner) -> None:
        """Log the plan, and load the state of a resumed checkpoint."""
        self._training = True
        frozen = [n for n, value in parameters(runner.model).items() if not value.requires_grad]
        print_log(
            plan_table(self.plan.phases, self.schedule, self.layer_map, runner.model, frozen),
            logger='current',
        )
        if self._plateau is not None:
            self._plateau.load(runner)
        if self.warmup_iters:
            self._warmup = PhaseWarmup(
                runner,
                self.plan.phases,
                self.initially_frozen & frozen_here(runner.model),
                self.warmup_iters,
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Run a validation that was due after the resumed checkpoint."""
        if self._plateau is not None:
            self._plateau.catch_up(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Begin the next phase when it is due, and warm up its rates."""
        if self._advance(runner):
            # Layers unfrozen in mid-epoch have missed the loop's own call.
            runner.model.train()
            self.apply_modes(runner)
        super().before_train_iter(runner, batch_idx, data_batch)
        if self._warmup is not None:
            self._warmup.apply(runner.iter, self._start_iters(runner))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Restore the rates before the schedulers step."""
        if self._warmup is not None:
            self._warmup.restore()
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Read the metric, if the schedule depends on one."""
        if self._plateau is not None and self._training:
            self._plateau.update(runner, metrics or {})

    def awaited_metrics(self, runner: Runner) -> list[Monitor]:
        """Return the metric that its schedule reads."""
        if not isinstance(self.schedule, Plateau):
            return []
        option, metric = 'custom_hooks.GradualUnfreezeHook.schedule.monitor', self.schedule.monitor
        return [Monitor('GradualUnfreezeHook', option, metric, (metric,))]

    def after_train(self, runner: Runner) -> None:
        """Ignore validations after training."""
        self._training = False

    def _advance(self, runner: Runner) -> bool:
        begun = (
            len(self._plateau.starts)
            if self._plateau is not None
            else self.plan.begun(runner.epoch if self.plan.by_epoch else runner.iter)
        )
        if begun == self._begun:
            return False
        new = self.plan.phases[self._begun : begun]
        self._begun = begun
        released = {name for phase in self.plan.phases[:begun] for name in phase.names}
        depths = depths_text([depth for phase in new for depth in phase.depths])
        self.hold(
            runner,
            self.initially_frozen - released,
            f'unfreezing depths {depths} at epoch {runner.epoch}, iteration {runner.iter}',
        )
        return True

    def _start_iters(self, runner: Runner) -> list[int]:
        if self._plateau is not None:
            return self._plateau.starts
        length = len(runner.train_dataloader) if self.plan.by_epoch else 1
        return [phase.start * length for phase in self.plan.phases[: self._begun]]
