"""How to predict, and what a calibration makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tl_plugin.evaluation.calibration import Calibration
from tl_plugin.evaluation.source_reference import SourceReference


@dataclass(frozen=True)
class Settings:
    """Settings of a prediction.

    Args:
        top_k: Classes of each image that are written. Defaults to 3.
        batch_size: Images at a time. Defaults to None, as ``test_dataloader`` says.
        workers: Processes that read images, for each process. Defaults to None, likewise.
        strategy: Strategies that adapt before: 'adabn'. Defaults to none.
        calibration: A file of ``tools/calibrate.py``. Defaults to None: the one beside the
            checkpoint, if there is one.
        precision: Share of right ones that predictions called sure have. Defaults to 0.95.
        coverage: Share of images whose prediction set holds their class. Defaults to 0.9.
        to_label: Images to propose for labelling. Defaults to 0.
        overwrite: Whether a finished output may be replaced. Defaults to False.
        amp: Predict in mixed precision. Defaults to False.
        seed: Of the choice of images to label and to adapt to. Defaults to 0.
    """

    top_k: int = 3
    batch_size: int | None = None
    workers: int | None = None
    strategy: Sequence[str] = ()
    calibration: str | Path | None = None
    precision: float = 0.95
    coverage: float = 0.9
    to_label: int = 0
    overwrite: bool = False
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If one is out of range.
        """
        for name, least in (('top_k', 1), ('batch_size', 1), ('workers', 0), ('to_label', 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f'{name} must be at least {least}, got {value}')
        for name in ('precision', 'coverage'):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f'{name} lies between 0 and 1, got {getattr(self, name)}')


@dataclass(frozen=True)
class Thresholds:
    """What a calibration says of single images.

    Args:
        calibration: None without one.
        why_none: Why there is none, in a sentence; '' with one.
        outputs: On degraded source images, for the expected accuracy; None without any.
        sure: Confidence from which on the wanted precision holds; None where it never does.
        in_set: Probability from which on a class is in the prediction set.
    """

    calibration: Calibration | None = None
    why_none: str = ''
    outputs: SourceReference | None = None
    sure: float | None = None
    in_set: float = 0.0

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return 1.0 if self.calibration is None else self.calibration.temperature
