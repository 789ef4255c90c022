"""Protocol of a model that adapts: all that hooks and loops may call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from .model_wrappers import unwrap

SOURCE = 'source'
TARGET = 'target'
#: Children of a model that adapts, which training needs and prediction of the target doesn't.
TRAINING_ONLY = ('alignments', 'regularizers', 'teacher', 'dsbn')


@runtime_checkable
class AdaptationModel(Protocol):
    """A classifier that is trained on a source and a target domain.

    :class:`tl_plugin.models.AdaptationClassifier` is one. Loops and hooks call nothing else of a
    model, so that another model may replace it.
    """

    #: Children that training needs and prediction of the target doesn't: alignments, teacher.
    training_only: tuple[str, ...]

    def check_domains(self, domains: Collection[str]) -> None:
        """Raise a ValueError if it can't train on batches of these domains."""

    def losses_on_images(self) -> list[str]:
        """Name the losses that run a network on the images, beside the model itself."""

    def set_progress(self, progress: float) -> None:
        """Set which part of training is done, in [0, 1], before each step."""

    def update_teacher(self) -> None:
        """Update the mean teacher, if there is one, each time the weights have changed."""

    def remember_source(self, state: dict[str, Tensor] | None = None) -> None:
        """Keep the current weights, or the given ones, for losses that compare with the source."""

    def source_state(self) -> dict[str, Tensor] | None:
        """Return the weights that were kept, None where nothing compares with them."""

    def needs_source_model(self) -> bool:
        """Say whether a loss compares with the source model."""

    def set_domain(self, domain: str) -> None:
        """Set the domain of the images to predict; any name but 'source' is the target."""

    def statistics_of(self, domain: str) -> AbstractContextManager:
        """Put a domain's running statistics into the layers, where they are kept by domain."""

    def statistics_by_domain(self) -> bool:
        """Say whether running statistics are kept by domain."""

    def adversaries(self) -> Mapping[str, Any]:
        """Return the adversarial alignments, by name."""

    def measure_health(self, active: bool = True) -> None:
        """Switch the diagnostics of adversaries on or off."""

    def set_class_weights(self, weights: Tensor | None) -> None:
        """Weigh source images by class."""

    def set_image_weights(self, weights: Any) -> None:
        """Weigh source images one by one in the classification loss."""

    def set_forget_rate(self, rate: float | None) -> None:
        """Leave out the largest losses of each batch, such a share of them."""

    def memories(self) -> Mapping[str, Any]:
        """Return the losses that remember something of each training image, by name."""

    def set_pseudo_labels(self, labels: Tensor | None, numbers: Any) -> None:
        """Set the labels of target images, by their numbers."""

    def set_neighbour_memory(self, state: Mapping[str, Tensor], numbers: Any) -> None:
        """Set features and predictions of all target images, by their numbers."""

    def neighbour_memory(self) -> dict[str, Tensor] | None:
        """Return what they are now, None where nobody has set them."""

    def keep_features(self, active: bool = True) -> None:
        """Switch on or off that predictions come with their features."""

    def features_of(self, feats: Any) -> Tensor:
        """Return one vector per image from the output of ``extract_feat``, (N, D)."""

    def logits_of(self, feats: Any) -> Tensor:
        """Return the head's logits for the output of ``extract_feat``, (N, K)."""


def adaptation_model(model: nn.Module) -> AdaptationModel | None:
    """Take the wrappers off a model that adapts.

    Args:
        model: Any model, also wrapped.

    Returns:
        The model, or None if it isn't an :class:`AdaptationModel`.
    """
    inner = unwrap(model)
    return inner if isinstance(inner, AdaptationModel) else None


def require_adaptation_model(model: nn.Module, who: str) -> AdaptationModel:
    """Take the wrappers off a model, which has to be one that adapts.

    Args:
        model: Any model, also wrapped.
        who: Who needs it, for the message: 'LabelShiftHook'.

    Raises:
        ValueError: If it is another model.
    """
    found = adaptation_model(model)
    if found is None:
        raise ValueError(
            f'{who} needs a model that adapts, and this is a {type(unwrap(model)).__name__}: set '
            "model.type='AdaptationClassifier', which replaces ImageClassifier"
        )
    return found


def announce_domain(model: Any, name: str) -> None:
    """Set the domain of the next images in a model that adapts; others are left alone."""
    model = adaptation_model(model)
    if model is not None:
        model.set_domain(name)


def training_only(model: nn.Module) -> tuple[str, ...]:
    """Name the parts of a model that serve training alone: alignments, teacher, and the like.

    Whoever exports, mixes or compares models leaves them out. A model says so by its attribute
    ``training_only``, the names of children.

    Args:
        model: Any model, also wrapped.

    Returns:
        What the names of their parameters and buffers begin with: ``('alignments.', ...)``.
        Those that an :class:`AdaptationClassifier` has and this model hasn't are among them, as
        a checkpoint of the one is loaded into the other.
    """
    inner = unwrap(model)
    declared = getattr(inner, 'training_only', ())
    lacking = [name for name in TRAINING_ONLY if not hasattr(inner, name)]
    return tuple(f'{name}.' for name in dict.fromkeys((*declared, *lacking)))
