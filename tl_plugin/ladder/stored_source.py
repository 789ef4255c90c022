"""What is kept of the source beside a checkpoint, for ladders that have no source images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_plugin.evaluation.calibration import Calibration, calibration_path, outputs_path
from tl_plugin.evaluation.source_reference import SourceReference
from tl_plugin.reliability.files import read_json

#: Why nothing is expected of a model's accuracy where there are no source images.
NOT_KEPT = (
    'there are no source images, and no outputs of this very model on such images are kept beside '
    'its checkpoint, as tools/calibrate.py keeps them'
)


class StoredSource(NamedTuple):
    """What ``tools/calibrate.py`` left beside a checkpoint.

    Attributes:
        calibration: None where there is none of these weights.
        outputs: On source images as they are and degraded; None where there are none.
    """

    calibration: Calibration | None = None
    outputs: SourceReference | None = None

    def notes(self) -> list[str]:
        """Say in sentences what is known of the source."""
        if self.calibration is None:
            return ['Nothing is known of the source: no calibration lies beside the checkpoint.']
        one = self.calibration
        return [
            f'The model as it came was right on {100 * one.accuracy:.1f}% of {one.images} images '
            f'when it was calibrated ({one.fitted_on}).'
        ]


def read_stored(checkpoint: str | Path | None, weights: str) -> StoredSource:
    """Read what is kept of the source beside a checkpoint.

    Args:
        checkpoint: The file; None for no checkpoint.
        weights: What :func:`~tl_plugin.intake.trained_model.weights_fingerprint` gives for the
            model; what was kept of other weights is left aside.
    """
    if checkpoint is None:
        return StoredSource()
    path = calibration_path(checkpoint)
    content = read_json(path)
    if content is None or content.get('checkpoint') != weights or content.get('strategy'):
        return StoredSource()
    outputs = None
    if outputs_path(path).is_file():
        with np.load(outputs_path(path), allow_pickle=False) as arrays:
            outputs = SourceReference.from_arrays(dict(arrays))
    return StoredSource(Calibration.from_json(content), outputs)
