"""One run in a process of its own: train, then test once, at the last epoch.

``python -m tl_plugin.ladder.run_rung FOLDER --key KEY`` runs ``FOLDER/config.py``. It goes on from
the newest whole checkpoint in the folder, if there is one, and writes ``result.json`` last.
"""

from __future__ import annotations

import argparse
import datetime
import pickle
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from tl_plugin.datasets.bad_data import naming_bad_data
from tl_plugin.engine.hooks.retention_hook import CHECKPOINT, RetentionHook
from tl_plugin.engine.resume.checkpoints import newest_whole_checkpoint
from tl_plugin.ladder.curves import read_scalars
from tl_plugin.ladder.files import write_json
from tl_plugin.ladder.kept_layers import kept_layers
from tl_plugin.ladder.progress import ProgressHook, read_progress
from tl_plugin.ladder.ready_config import CONFIG_NAME, PREDICTIONS_NAME
from tl_plugin.launch import build_runner, prepare

RESULT_NAME = 'result.json'
PREDICTIONS_JSON = 'predictions.json'


def run_rung(folder: Path, key: str, source_model: str | None = None) -> None:
    """Train and test the config in a folder; leave ``result.json`` and ``predictions.json``.

    Args:
        folder: Holds ``config.py``.
        key: What the result is filed under, see :func:`~tl_plugin.ladder.ready_config.content_key`.
        source_model: Checkpoint of the source model, to compare with layer by layer. Defaults to
            None, which saves that.
    """
    checkpoint = newest_whole_checkpoint(folder)
    # A config without a file name: the runner writes the config it runs into its folder under that
    # name, and this one is resumed or not, which the ready config must not remember.
    cfg = Config(Config.fromfile(folder / CONFIG_NAME).to_dict())
    with naming_bad_data():
        runner = build_runner(prepare(cfg, resume=str(checkpoint) if checkpoint else None))
        progress = ProgressHook(folder, read_progress(folder).elapsed if checkpoint else 0.0)
        runner.register_hook(progress)
        runner.train()
    trained = kept_checkpoint(runner)
    validation = final_validation(runner, folder, fresh=trained is not None)
    metrics = runner.test()
    predictions = read_predictions(folder)
    write_json(folder / PREDICTIONS_JSON, predictions)
    write_json(
        folder / RESULT_NAME,
        {
            'key': key,
            'accuracy': {name: accuracy(found) for name, found in predictions.items()},
            'images': {name: len(found['truth']) for name, found in predictions.items()},
            'validation': validation,
            'metrics': _scalars(metrics),
            'classes': list(runner.test_loop.dataloader.dataset.metainfo.get('classes') or []),
            'seconds': round(progress.elapsed, 1),
            'epochs': runner.epoch,
            'iterations': runner.iter,
            'checkpoint': str(trained or newest_whole_checkpoint(folder, resumable=False)),
            'finished': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
            **count_parameters(runner.model),
            'kept_layers': kept_layers(runner, source_model) if source_model else None,
        },
    )


def kept_checkpoint(runner: Runner) -> Path | None:
    """Where the model's weights are, if a budget of source accuracy made it go back to them."""
    for hook in runner.hooks:
        if isinstance(hook, RetentionHook) and hook.overdrawn and hook.action == 'roll_back':
            return Path(runner.work_dir, CHECKPOINT)
    return None


def final_validation(runner: Runner, folder: Path, fresh: bool = False) -> dict[str, float]:
    """What validation says of the trained model, by metric.

    The one in training counts if it came at its end; otherwise, or where it has to be ``fresh``
    because the weights have changed since, there is another one.
    """
    if runner.val_loop is None:
        return {}
    _, records = read_scalars(folder)
    found = records[-1] if records else {}
    if fresh or found.get('step') not in (runner.epoch, runner.iter):
        found = runner.val() or {}
    return {name: value for name, value in _scalars(found).items() if '/' in name}


def read_predictions(folder: Path) -> dict[str, dict[str, list]]:
    """Gather what was dumped per domain: ``truth``, ``predicted``, ``confidence``, in order."""
    dumped = Path(PREDICTIONS_NAME)
    predictions = {}
    for path in sorted(folder.glob(f'{dumped.stem}.*{dumped.suffix}')):
        with path.open('rb') as file:
            samples = pickle.load(file)  # written a moment ago by this very process
        predictions[path.suffixes[0].lstrip('.')] = {
            'truth': [int(sample['gt_label'][0]) for sample in samples],
            'predicted': [int(sample['pred_label'][0]) for sample in samples],
            'confidence': [round(float(sample['pred_score'].max()), 4) for sample in samples],
        }
        path.unlink()
    return predictions


def accuracy(predictions: dict[str, list]) -> float:
    """Percent of predictions that are right.

    >>> accuracy({'truth': [1, 2, 2], 'predicted': [1, 1, 2]})
    66.667
    """
    pairs = list(zip(predictions['truth'], predictions['predicted']))
    return round(100 * sum(truth == predicted for truth, predicted in pairs) / len(pairs), 3)


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count a model's parameters, all and those that train."""
    model = model.module if is_model_wrapper(model) else model
    return {
        'trainable_parameters': sum(p.numel() for p in model.parameters() if p.requires_grad),
        'parameters': sum(p.numel() for p in model.parameters()),
    }


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    numbers = (int, float)
    return {name: float(value) for name, value in metrics.items() if isinstance(value, numbers)}


def main() -> None:
    """Run the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--key', required=True)
    parser.add_argument('--source-model')
    arguments = parser.parse_args()
    run_rung(arguments.folder, arguments.key, arguments.source_model)


if __name__ == '__main__':
    main()
