"""Run a ladder from its config to results and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tl_plugin.evaluation.calibration import calibration_path
from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.fault_tolerance import attempt
from tl_plugin.reliability.files import write_json, write_text
from tl_plugin.reporting.progress import ProgressDisplay
from tl_plugin.stack.options import type_name

from .card import CARD_NAME, card_of, measure_corruptions
from .climb import climb
from .few_labels import notes_on_few_labels
from .jobs import plan
from .launchers import Launcher, ThisMachine, visible_devices
from .limits import Limits
from .noisy_labels import add_label_rungs
from .ready_config import check_measures_target
from .records import LadderResults
from .report import REPORT_NAME, make_report
from .results import RESULTS_NAME, collect
from .rungs import Rung
from .selection import read_rungs, select_rungs
from .stored_source import read_stored
from .table import print_table
from .target_labels import (
    TargetLabels,
    check_ladder_data,
    count_target_labels,
    measure_by_labels,
    not_validated,
    notes_on_labels,
    target_files,
)

#: Strategies that train the weights of norm layers, and those that train on the target alone.
ADAPTS_NORMS, SOURCE_FREE = ('tent', 'sar'), ('shot', 'aad')


def run_ladder(
    config: str | Path,
    work_dir: Path,
    rungs: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    cfg_options: dict | None = None,
    limits: Limits | None = None,
    launcher: Launcher | None = None,
    corruptions: Sequence[str] = (),
    calibrate: Callable[[str, str, Sequence[str]], str] | None = None,
) -> int:
    """Climb the ladder on a config, print the table, write results.json, report.html and card.md.

    Args:
        config: A config with a ``ladder`` and a target in ``test_cfg``.
        work_dir: Folder of all runs, results and report.
        rungs: Names of rungs to climb. Defaults to all that the config has data for.
        seeds: Each rung is run once for each of them. Defaults to ``(0,)``.
        cfg_options: Single settings over the config.
        limits: When to end the climb, and what a rung may cost the source. Defaults to no limits.
        launcher: Where the runs go on. Defaults to this machine: side by side on its GPUs, or on
            its cores as far as that pays.
        corruptions: Names of corruptions that the recommended rung is tested under at the end.
            Defaults to ().
        calibrate: Calibrates the recommended rung: takes its config, its checkpoint and files of
            unlabelled target images, and returns what it did in a sentence. Defaults to None,
            nothing does.

    Returns:
        0, or 1 if a run failed.

    Raises:
        ValueError: If the config can't be climbed on, or a rung doesn't exist. Nothing has been
            trained then.
    """
    limits = limits or Limits()
    cfg = load_config(config, cfg_options=cfg_options)
    cfg, chosen, missing, labels = choose_rungs(cfg, rungs, limits, work_dir)
    settings = cfg.get('ladder') or {}
    for name, reason in missing.items():
        print(f'Leaving out {name}: {reason}.')
    jobs = plan(cfg, chosen, seeds, work_dir, limits.budget_source)
    work_dir.mkdir(parents=True, exist_ok=True)
    with ProgressDisplay(len(jobs), name='ladder') as display:
        failures, not_climbed = climb(
            jobs, display, limits, launcher or ThisMachine(visible_devices())
        )
    few: list[str] | None = attempt(
        'the check of the few target labels', lambda: notes_on_few_labels(cfg, jobs, work_dir)
    )
    notes = [*(settings.get('notes') or ()), *notes_on_labels(labels), *(few or ())]
    if settings.get('source_free'):
        notes += read_stored(cfg.load_from, cfg.get('weights_of_load_from')).notes()
    results = collect(
        jobs, failures, str(config), limits.budget_source, not_climbed, missing, notes
    )
    write_json(work_dir / RESULTS_NAME, results.to_json())
    if results.rungs:
        print_table(results)
        if corruptions and results.recommendation:
            found = attempt('corruptions', lambda: measure_corruptions(results, corruptions))
            results = replace(results, notes=[*results.notes, *(found or ())])
            write_json(work_dir / RESULTS_NAME, results.to_json())
        if calibrate and results.recommendation:
            calibrate_recommended(results, cfg, calibrate)
        write_report(results, cfg, work_dir)
        write_card(results, cfg, work_dir)
    print_end(results, work_dir)
    return 1 if failures else 0


def choose_rungs(
    cfg: Config,
    rungs: Sequence[str] | None = None,
    limits: Limits | None = None,
    folder: Path | None = None,
) -> tuple[Config, list[Rung], dict[str, str], TargetLabels]:
    """Check a config and choose the rungs to climb on it.

    Args:
        cfg: A config with a ``ladder``.
        rungs: Names of rungs. Defaults to all that the config has data for.
        limits: Of the climb. Defaults to no limits.
        folder: Of the climb, where the source's labels are checked, which may add rungs. Defaults
            to None, no check.

    Returns:
        The config, which measures what the target's labels allow; the rungs; those left out -> why;
        and which target images have labels.

    Raises:
        ValueError: If the config can't be climbed on, or a rung doesn't exist.
    """
    limits, settings = limits or Limits(), cfg.get('ladder') or {}
    check_measures_target(cfg)
    if settings.get('source_free'):
        limits.check_source_free()
    else:
        check_ladder_data(cfg)
    read_rungs(settings)
    labels = count_target_labels(cfg)
    limits.check_reachable(labels)
    cfg, left_out = measure_by_labels(cfg, labels), {}
    if folder is not None and not settings.get('source_free'):
        cfg, left_out = add_label_rungs(cfg, rungs, folder, partial(has_own_weights, cfg))
    settings = cfg.get('ladder') or {}
    known = read_rungs(settings)
    chosen, missing = select_rungs(
        known,
        rungs,
        settings,
        partial(has_batch_norm, cfg),
        not_validated(cfg, labels),
        partial(has_own_weights, cfg),
        partial(why_unfit, cfg),
    )
    return cfg, chosen, {**missing, **left_out}, labels


def calibrate_recommended(
    results: LadderResults, cfg: Config, calibrate: Callable[[str, str, Sequence[str]], str]
) -> None:
    """Calibrate the recommended rung; keep a calibration that lies beside its checkpoint.

    Args:
        results: With a recommendation.
        cfg: The base config of the ladder.
        calibrate: As in :func:`run_ladder`.
    """
    rung = results.recommended
    if (cfg.get('ladder') or {}).get('source_free') or calibration_path(rung.checkpoint).is_file():
        return
    print(f'Calibrating {rung.name}.', flush=True)
    left_out: dict[str, str] = {}
    said = attempt(
        'calibration', lambda: calibrate(rung.config, rung.checkpoint, target_files(cfg)), left_out
    )
    print(said or f'Not calibrated: {left_out["calibration"]}. The results are complete.')


def write_report(results: LadderResults, cfg: Config, work_dir: Path) -> None:
    """Write the report, or print why there is none: the results are complete without it."""
    path = work_dir / REPORT_NAME
    path.unlink(missing_ok=True)  # an older one would show other results
    left_out: dict[str, str] = {}
    report = attempt('report', lambda: make_report(results, cfg), left_out)
    if report is None:
        print(f'No report: {left_out["report"]}. The results are complete.')
    else:
        write_text(path, report)


def write_card(results: LadderResults, cfg: Config, work_dir: Path) -> None:
    """Write the model card of the recommended rung, where there is one."""
    path = work_dir / CARD_NAME
    path.unlink(missing_ok=True)
    if results.recommendation:
        left_out: dict[str, str] = {}
        card = attempt('card', lambda: card_of(results, cfg), left_out)
        if card is None:
            print(f'No model card: {left_out["card"]}. The results are complete.')
        else:
            write_text(path, card)


def has_batch_norm(cfg: Config) -> bool:
    """Return whether the config's network has batch statistics; builds it without weights."""
    from tl_plugin.analysis.features import build_model
    from tl_plugin.engine.batch_statistics import norm_layers

    return bool(norm_layers(build_model(cfg, weights=False)))


def why_unfit(cfg: Config, rung: Rung) -> str | None:
    """Return why a rung that adapts a trained model can't adapt this one; None if it can."""
    if not {*ADAPTS_NORMS, *SOURCE_FREE} & {*rung.strategies}:
        return None
    from mmpretrain.models import ImageClassifier

    from tl_plugin.analysis.features import build_model
    from tl_plugin.engine.layers.module_kinds import norm_parameters

    model = build_model(cfg, weights=False)
    if not isinstance(model, ImageClassifier):
        return f'it adapts an ImageClassifier of mmpretrain, and this is a {type(model).__name__}'
    if {*ADAPTS_NORMS} & {*rung.strategies} and not norm_parameters(model):
        return 'the network has no norm layer with weights'
    return None


def has_own_weights(cfg: Config) -> bool:
    """Return whether the config names weights for all of its network below the head."""
    from tl_plugin.analysis.features import build_model

    if not cfg.get('load_from') and not names_weights(cfg.model.get('backbone')):
        return False
    neck = getattr(build_model(cfg, weights=False), 'neck', None)
    return neck is None or not any(True for _ in neck.parameters())


def names_weights(backbone: Any) -> bool:
    """Return whether the config of a backbone, or of one inside of it, says where weights are."""
    if not isinstance(backbone, dict):
        return False
    init = backbone.get('init_cfg') or {}
    inits = init if isinstance(init, (list, tuple)) else [init]
    own = any(type_name(one) in ('Pretrained', 'PretrainedInit') for one in inits)
    named = any(backbone.get(key) for key in ('pretrained', 'checkpoint_path', 'weights'))
    return own or named or any(map(names_weights, backbone.values()))


def print_end(results: LadderResults, work_dir: Path) -> None:
    """Print what failed, where the results are, and what to do next."""
    for failure in results.failures:
        log = f' (see {failure.log})' if failure.log else ''
        print(f'FAILED {failure.name} (seed {failure.seed}): {failure.reason}{log}')
    for name, reason in results.not_climbed.items():
        print(f'Not climbed: {name}: {reason}')
    for rung in results.rungs:
        for what, reason in rung.left_out.items():
            print(f'Left out of {rung.name}: {what}: {reason}')
    for note in results.notes:
        print(f'Note: {note}')
    if not results.rungs:
        return
    if (work_dir / REPORT_NAME).is_file():
        print(f'Report:  {work_dir / REPORT_NAME}')
    if (work_dir / CARD_NAME).is_file():
        print(f'Card:    {work_dir / CARD_NAME}')
    print(f'Results: {work_dir / RESULTS_NAME}')
    chosen = results.recommended
    if chosen is None:
        print(f'No recommendation: {results.no_recommendation}.')
        return
    print(f'Take {chosen.name}. ' + ' '.join(results.recommendation.reasons))
    print(
        'Train it again, or on data of your own, from its ready config:\n'
        f'  {chosen.command.split(" && ")[0]}'
    )
