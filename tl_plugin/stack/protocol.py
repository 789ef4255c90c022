"""All that hooks and loops may ask of a model that adapts."""

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

    :class:`tl_plugin.models.AdaptationClassifier` is one. Loops and hooks ask nothing else of a
    model, so that another model may stand in for it.
    """

    #: Children that training needs and prediction of the target doesn't: alignments, teacher.
    training_only: tuple[str, ...]

    def check_domains(self, domains: Collection[str]) -> None:
        """Raise a ValueError if it can't train on batches of these domains."""

    def losses_on_images(self) -> list[str]:
        """Name the losses that run a network on the images, beside the model itself."""

    def set_progress(self, progress: float) -> None:
        """Tell which part of training is done, in [0, 1], before each step."""

    def update_teacher(self) -> None:
        """Let a mean teacher follow, if there is one: once each time the weights have changed."""

    def remember_source(self, state: dict[str, Tensor] | None = None) -> None:
        """Keep the model as it is, or these weights of it, for what compares with the source."""

    def source_state(self) -> dict[str, Tensor] | None:
        """Give the weights that were kept, None where nothing compares with them."""

    def needs_source_model(self) -> bool:
        """Say whether a loss compares with the source model."""

    def set_domain(self, domain: str) -> None:
        """Tell whose images are predicted from now on; any name but 'source' is the target."""

    def statistics_of(self, domain: str) -> AbstractContextManager:
        """Put a domain's running statistics into the layers, where they are kept by domain."""

    def statistics_by_domain(self) -> bool:
        """Say whether running statistics are kept by domain."""

    def adversaries(self) -> Mapping[str, Any]:
        """Give the alignments that play against the features, by name."""

    def measure_health(self, active: bool = True) -> None:
        """Switch the diagnostics of adversaries on or off."""

    def set_class_weights(self, weights: Tensor | None) -> None:
        """Weigh source images by class."""

    def set_pseudo_labels(self, labels: Tensor | None) -> None:
        """Give target images labels, by index in the target data set."""

    def keep_features(self, active: bool = True) -> None:
        """Switch on or off that predictions come with their features."""

    def features_of(self, feats: Any) -> Tensor:
        """Give one vector an image of what ``extract_feat`` gives, (N, D)."""

    def logits_of(self, feats: Any) -> Tensor:
        """Give the head's scores of what ``extract_feat`` gives, (N, K)."""


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
            "model.type='AdaptationClassifier', which stands in for ImageClassifier"
        )
    return found


def announce_domain(model: Any, name: str) -> None:
    """Tells a model that keeps statistics by domain whose images come; it predicts the target's."""
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
