"""One run in a process of its own: train, then test once, at the last epoch.

``python -m tl_plugin.ladder.run_rung FOLDER --key KEY`` runs ``FOLDER/config.py``. It goes on from
the newest whole checkpoint in the folder, if there is one, and writes ``result.json`` last.
"""

from __future__ import annotations

import argparse
import datetime
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from tl_plugin.datasets.bad_data import naming_bad_data
from tl_plugin.engine.hooks.retention_hook import CHECKPOINT, RetentionHook
from tl_plugin.evaluation.label_free_score import label_free_scores
from tl_plugin.evaluation.predictions import SOURCE
from tl_plugin.launch.runs import build_runner, prepare
from tl_plugin.reliability.checkpoints import newest_whole_checkpoint
from tl_plugin.reliability.files import write_json

from .extras import attempt
from .kept_layers import kept_layers
from .progress import ProgressHook, read_progress, read_scalars
from .ready_config import CONFIG_NAME, PREDICTIONS_NAME
from .records import Predictions, RunResult

RESULT_NAME = 'result.json'
PREDICTIONS_JSON = 'predictions.json'
KEPT_LAYERS = 'comparison with the source model layer by layer'


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
    # name, and this one is resumed or not, which the ready config must not remember. Nor is it
    # formatted, which takes seconds.
    cfg = Config(Config.fromfile(folder / CONFIG_NAME).to_dict(), format_python_code=False)
    with naming_bad_data():
        runner = build_runner(prepare(cfg, resume=str(checkpoint) if checkpoint else None))
        progress = ProgressHook(folder, read_progress(folder).elapsed if checkpoint else 0.0)
        runner.register_hook(progress)
        runner.train()
    trained = kept_checkpoint(runner)
    validation = final_validation(runner, folder, fresh=trained is not None)
    metrics = runner.test()
    tested = read_predictions(folder)
    predictions = {name: found.predictions for name, found in tested.items()}
    write_json(
        folder / PREDICTIONS_JSON, {name: found.to_json() for name, found in predictions.items()}
    )
    left_out: dict[str, str] = {}
    result = RunResult(
        key=key,
        checkpoint=str(trained or newest_whole_checkpoint(folder, resumable=False)),
        seconds=round(progress.elapsed, 1),
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
        finished=datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        left_out=left_out,
    )
    # First of all the result: what follows may fail, and even end the process.
    write_json(folder / RESULT_NAME, result.to_json())
    if source_model:
        kept = attempt(KEPT_LAYERS, lambda: kept_layers(runner, source_model), left_out)
        write_json(folder / RESULT_NAME, replace(result, kept_layers=kept).to_json())


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


@dataclass(frozen=True)
class Tested:
    """One domain's test.

    Args:
        predictions: Image by image.
        probabilities: (N, K); empty where the model gives no scores.
    """

    predictions: Predictions
    probabilities: Tensor

    def label_free(self) -> dict[str, float]:
        """Scores of the predictions that need no labels."""
        return label_free_scores(self.probabilities)


def read_predictions(folder: Path) -> dict[str, Tested]:
    """Gather what was dumped per domain, in the order of the images; the dumps are deleted."""
    dumped = Path(PREDICTIONS_NAME)
    found = {}
    for path in sorted(folder.glob(f'{dumped.stem}.*{dumped.suffix}')):
        with path.open('rb') as file:
            samples = pickle.load(file)  # written a moment ago by this very process
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
    """An image's true class, if it has a label and the model knows the class."""
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
