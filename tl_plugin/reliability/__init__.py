"""Fault tolerance: exact resume, atomic checkpoints, bad images, checks of data and weights."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .bad_images import BadImagesHook
from .data_check_hook import DataCheckHook
from .exact_resume_hook import ExactResumeHook
from .finite_loss_hook import FiniteLossHook
from .load_report_hook import LoadReportHook
from .resumable_loops import ResumableEpochTrainLoop, ResumableIterTrainLoop

__all__ = [
    'AtomicCheckpointHook',
    'BadImagesHook',
    'DataCheckHook',
    'ExactResumeHook',
    'FiniteLossHook',
    'LoadReportHook',
    'ResumableEpochTrainLoop',
    'ResumableIterTrainLoop',
]
