"""Train and test one rung with one seed, in a process of its own.

``python -m tl_plugin.ladder.run_rung FOLDER --key KEY`` trains ``FOLDER/config.py`` and
tests it once, at the last epoch. It resumes from the newest whole checkpoint in the folder, if
there is one, and writes ``result.json``.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor

from tl_plugin.datasets.bad_data import naming_bad_data
from tl_plugin.engine.hooks.retention_hook import CHECKPOINT, RetentionHook
from tl_plugin.evaluation.expected_accuracy import ExpectedAccuracy, expected_accuracy
from tl_plugin.evaluation.predictions import domain_loader
from tl_plugin.evaluation.source_reference import (
    as_npz,
    collect_outputs_of,
    source_reference,
)
from tl_plugin.evaluation.validators import validator_scores
from tl_plugin.intake.trained_model import weights_fingerprint
from tl_plugin.launch.cpu import leave_cpu_group
from tl_plugin.launch.runs import build_runner, prepare
from tl_plugin.reliability.checkpoints import newest_whole_checkpoint
from tl_plugin.reliability.fault_tolerance import attempt
from tl_plugin.reliability.files import read_json, write_json, write_whole
from tl_plugin.reliability.ranks import on_main_process
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.protocol import SOURCE, TARGET

from .capacity import own_usage
from .kept_layers import compare_layers
from .progress import ProgressHook, read_progress, read_scalars
from .ready_config import CONFIG_NAME, PREDICTIONS_NAME, start_from
from .run_records import ENDED, Predictions, RunResult
from .shared_copies import shared_copies
from .stored_source import NOT_KEPT, read_stored

RESULT_NAME = 'result.json'
PREDICTIONS_JSON = 'predictions.json'
EXPECTED, OUTPUTS_NAME = 'expected accuracy', 'outputs.npz'
KEPT_LAYERS = 'comparison with the source model layer by layer'


def run_rung(
    folder: Path,
    key: str,
    source_model: str | None = None,
    began: float | None = None,
    launcher: str = 'none',
    shared: Path | None = None,
) -> None:
    """Train and test the config in a folder; write ``result.json`` and ``predictions.json``.

    Args:
        folder: Holds ``config.py``.
        key: Of the result, see :func:`~tl_plugin.ladder.ready_config.content_key`.
        source_model: Checkpoint of the source model, to compare with layer by layer. Defaults to
            None, no comparison.
        began: When the run was started, in seconds since the epoch. Defaults to None, now.
        launcher: ``'pytorch'`` in each of several processes that torchrun has started; they share
            the batches of the config, so that it means the same training. Defaults to ``'none'``.
        shared: Folder of what the runs of a climb make once for all. Defaults to None, nothing.

    Raises:
        ValueError: If the processes can't share a batch evenly.
    """
    began = time.time() if began is None else began
    checkpoint = newest_whole_checkpoint(folder)
    # Without a file name: the runner writes its config into the folder under that name, and would
    # write `resume` into the ready config. Without formatting, which takes seconds.
    cfg = Config(Config.fromfile(folder / CONFIG_NAME).to_dict(), format_python_code=False)
    if launcher != 'none':
        share_batches(cfg, int(os.environ['WORLD_SIZE']))
    resume = str(checkpoint) if checkpoint else None
    with naming_bad_data():
        runner = build_runner(prepare(cfg, resume=resume, launcher=launcher))
        progress = ProgressHook(folder, began, read_progress(folder))
        if is_main_process():
            runner.register_hook(progress)
        runner.train()
    trained = kept_checkpoint(runner)
    validation = final_validation(runner, folder, fresh=trained is not None)
    metrics = runner.test()
    if not is_main_process():
        return
    tested = gather_predictions(folder)
    predictions = {name: found.predictions for name, found in tested.items()}
    write_json(
        folder / PREDICTIONS_JSON, {name: found.to_json() for name, found in predictions.items()}
    )
    left_out: dict[str, str] = {}
    usage = own_usage(time.time() - began)
    result = RunResult(
        key=key,
        checkpoint=str(trained or newest_whole_checkpoint(folder, resumable=False)),
        seconds=round(progress.elapsed, 1),
        training_seconds=round(progress.trained, 1),
        cores=round(usage.cores, 2),
        memory=usage.memory,
        epochs=runner.epoch,
        iterations=runner.iter,
        **count_parameters(runner.model),
        accuracy={name: found.accuracy for name, found in predictions.items()},
        images={name: len(found) for name, found in predictions.items()},
        labelled={name: found.labelled for name, found in predictions.items()},
        confident={name: found.confident for name, found in predictions.items()},
        label_free={
            name: attempt(f'label-free scores on {name}', found.label_free, left_out) or {}
            for name, found in tested.items()
            if name != SOURCE
        },
        validation=validation,
        metrics=_scalars(metrics),
        classes=_classes(runner),
        finished=_now(),
        left_out=left_out,
    )
    extras: dict[str, tuple[str, Callable[[], Any]]] = dict(
        expected=(EXPECTED, partial(expect, runner, tested, folder, shared))
    )
    if source_model:
        extras['kept_layers'] = (KEPT_LAYERS, partial(compare_layers, runner, source_model))
    # The result comes first: what follows may fail, and even end the process.
    left_out.update((what, ENDED) for what, _ in extras.values())
    write_json(folder / RESULT_NAME, result.to_json())
    for name, (what, make) in extras.items():
        del left_out[what]
        found = attempt(what, make, left_out)
        result = replace(
            result, **{name: found}, seconds=round(progress.elapsed, 1), finished=_now()
        )
        write_json(folder / RESULT_NAME, result.to_json())


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec='milliseconds')


def share_batches(cfg: Config, processes: int) -> None:
    """Divide the batches of training among processes, in place.

    Args:
        cfg: A ready config; its batch sizes are those of a single process.
        processes: Their number.

    Raises:
        ValueError: If one of the batches can't be divided evenly.
    """
    loaders = {
        'train_dataloader': cfg.get('train_dataloader'),
        'train_cfg.target_dataloader': (cfg.get('train_cfg') or {}).get('target_dataloader'),
    }
    for name, loader in loaders.items():
        size = (loader or {}).get('batch_size')
        if size is None:
            continue
        if size % processes:
            raise ValueError(
                f'{processes} processes cannot share batches of {size} images evenly: set '
                f'{name}.batch_size to a multiple of {processes}, {size + -size % processes} say'
            )
        loader['batch_size'] = size // processes


def expect(
    runner: Runner, tested: Mapping[str, Tested], folder: Path, shared: Path | None = None
) -> ExpectedAccuracy | None:
    """Estimate the accuracy on the target's test images without their labels.

    Writes what the model outputs on validation images of both domains, without target labels, to
    ``outputs.npz``: what a rung can be chosen by where the target has no labels.

    Args:
        runner: After its training.
        tested: The tests, by domain.
        folder: Gets ``outputs.npz``.
        shared: As in :func:`run_rung`.

    Returns:
        None without a validation of the target.
    """
    domains = getattr(runner.val_loop, 'domains', ())
    if TARGET not in domains:
        return None
    if SOURCE in domains:
        degrade = partial(shared_copies, shared) if shared else None
        reference = source_reference(runner.model, domain_loader(runner, SOURCE), degrade=degrade)
    else:
        weights = weights_fingerprint(unwrap(runner.model))
        reference = read_stored(runner.cfg.get('load_from'), weights).outputs
    target = collect_outputs_of(runner.model, domain_loader(runner, TARGET), labels=False)
    arrays = {} if reference is None else reference.arrays()
    arrays.update({f'target.{field}': getattr(target, field).numpy() for field in target._fields})
    probabilities = tested[TARGET].probabilities
    arrays['test.probabilities'] = probabilities.numpy()
    write_whole(folder / OUTPUTS_NAME, as_npz(arrays))
    if reference is None:
        return ExpectedAccuracy(None, reason=NOT_KEPT, images=len(probabilities))
    return expected_accuracy(reference, probabilities)


def kept_checkpoint(runner: Runner) -> Path | None:
    """Return the checkpoint that a run was rolled back to by its budget of source accuracy."""
    for hook in runner.hooks:
        if isinstance(hook, RetentionHook) and hook.overdrawn and hook.action == 'roll_back':
            return Path(runner.work_dir, CHECKPOINT)
    return None


def final_validation(runner: Runner, folder: Path, fresh: bool = False) -> dict[str, float]:
    """Return the trained model's validation metrics.

    Args:
        runner: After its training.
        folder: The run's folder, with mmengine's log.
        fresh: Validate again, since the weights have changed after training. Defaults to False:
            the last validation of training counts if it came at its end.
    """
    if runner.val_loop is None:
        return {}
    # One process alone writes the log, and all have to validate, or none.
    _, records = on_main_process(lambda: read_scalars(folder))
    found = records[-1] if records else {}
    if fresh or found.get('step') not in (runner.epoch, runner.iter):
        found = runner.val() or {}
    return {name: value for name, value in _scalars(found).items() if '/' in name}


@dataclass(frozen=True)
class Tested:
    """The test of one domain.

    Args:
        predictions: One for each image.
        probabilities: (N, K); empty where the model gives no scores.
    """

    predictions: Predictions
    probabilities: Tensor

    def label_free(self) -> dict[str, float]:
        """Return the scores of the predictions that need no labels."""
        return validator_scores(self.probabilities)


def gather_predictions(folder: Path) -> dict[str, Tested]:
    """Read the dumped predictions of each domain, in the order of the images; delete the dumps."""
    dumped = Path(PREDICTIONS_NAME)
    found = {}
    for path in sorted(folder.glob(f'{dumped.stem}.*{dumped.suffix}')):
        with path.open('rb') as file:
            samples = pickle.load(file)  # this process has just written it
        scores = [sample['pred_score'].float().cpu() for sample in samples]
        predictions = Predictions(
            truth=tuple(_truth(sample, len(own)) for sample, own in zip(samples, scores)),
            predicted=tuple(int(sample['pred_label'][0]) for sample in samples),
            confidence=tuple(round(float(own.max()), 4) for own in scores),
        )
        probabilities = torch.stack(scores) if scores else torch.empty(0, 0)
        found[path.suffixes[0].lstrip('.')] = Tested(predictions, probabilities)
        path.unlink()
    return found


def _truth(sample: dict, num_classes: int) -> int | None:
    """Return an image's true class, if it has a label and the model knows the class."""
    label = sample.get('gt_label')
    if label is None or not label.numel():
        return None
    label = int(label.flatten()[0])
    return label if 0 <= label < num_classes else None


def _classes(runner: Runner) -> list[str]:
    names = getattr(runner.test_loop.dataloader.dataset, 'metainfo', None) or {}
    return list(map(str, names.get('classes') or []))


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count a model's parameters, all and those that train."""
    model = unwrap(model)
    return {
        'trainable_parameters': sum(p.numel() for p in model.parameters() if p.requires_grad),
        'parameters': sum(p.numel() for p in model.parameters()),
    }


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    numbers = (int, float)
    return {name: float(value) for name, value in metrics.items() if isinstance(value, numbers)}


def checkpoint_in(folder: Path | None) -> str | None:
    """Return the model of the finished run in a folder.

    Raises:
        FileNotFoundError: If no run has finished there.
    """
    if folder is None:
        return None
    result = read_json(folder / RESULT_NAME)
    if result is None:
        raise FileNotFoundError(
            f'there is no {RESULT_NAME} in {folder}, so the run there has not finished: this one '
            'needs its model'
        )
    return RunResult.from_json(result, folder / RESULT_NAME).checkpoint


def main() -> None:
    """Run the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, help='of the run, with its config.py')
    parser.add_argument('--key', required=True, help='of the result')
    parser.add_argument('--began', type=float, help='start of the run, in seconds since the epoch')
    parser.add_argument(
        '--from-run', type=Path, help='folder of the run whose model it starts from'
    )
    parser.add_argument(
        '--adapted-run',
        type=Path,
        nargs='+',
        default=[],
        help='folders of the runs whose models are mixed with it',
    )
    parser.add_argument('--source-run', type=Path, help='folder of the run with the source model')
    parser.add_argument('--shared', type=Path, help='folder of what the runs make once for all')
    parser.add_argument('--threads', type=int, help='threads of the process')
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none')
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    adapted = [checkpoint_in(folder) for folder in arguments.adapted_run]
    start_from(arguments.folder, checkpoint_in(arguments.from_run), adapted)
    source = arguments.source_run
    known = source is not None and (source / RESULT_NAME).is_file()
    run_rung(
        arguments.folder,
        arguments.key,
        checkpoint_in(source) if known else None,
        arguments.began,
        arguments.launcher,
        arguments.shared,
    )
    leave_cpu_group()


if __name__ == '__main__':
    main()
