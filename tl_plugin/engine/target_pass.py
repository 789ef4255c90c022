"""A pass over all target images of a training, as a test would see them."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from tl_plugin.datasets.image_numbers import ImageNumbers
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.model_wrappers import evaluating, unwrap
from tl_plugin.stack.protocol import TARGET

from .loops.inherit import inherit_dataloader, plain_pass, unlabelled_dataloader


class TargetPass:
    """Compute features and scores of all target images; all processes share the work.

    Args:
        runner: The runner of a training on target images.
        who: Who needs them, for messages: 'CentroidPseudoLabelHook'.
        pipeline: Transforms of the images. Defaults to None: those of ``test_dataloader``, or else
            ``val_dataloader``, or else of the training.

    Raises:
        ValueError: If the training has no target images, or they can't be told apart, see
            :class:`~tl_plugin.datasets.image_numbers.ImageNumbers`.
    """

    def __init__(self, runner: Runner, who: str, pipeline: list | None = None) -> None:
        target_loader(runner, who)
        cfg = runner.cfg.train_dataloader
        target = runner.cfg.train_cfg.get('target_dataloader')
        if target is not None:
            cfg = inherit_dataloader(cfg, target, 'train_cfg.target_dataloader')
        else:
            cfg = unlabelled_dataloader(cfg, 'train_dataloader')
        cfg = plain_pass(runner.cfg, cfg, pipeline)
        self.runner, self.who = runner, who
        self.loader = runner.build_dataloader(cfg, seed=runner.seed)
        self.numbers = ImageNumbers({TARGET: self.loader.dataset})

    @torch.no_grad()
    def __call__(self) -> tuple[Tensor, Tensor]:
        """Run the model over them.

        Returns:
            Features, (n, D), and scores, (n, K), by the images' :attr:`numbers`.

        Raises:
            ValueError: If the target images can't be identified, or some are not read.
        """
        model = unwrap(self.runner.model)
        with evaluating(model):
            parts = [self._predict(model, batch) for batch in self.loader]
        numbers, *found = (gather_ranks(torch.cat(part)) for part in zip(*parts))
        missing = len(self.numbers) - len(numbers.unique())
        if missing:
            raise ValueError(
                f'{self.who} needs all {len(self.numbers)} target images, and a pass gave '
                f'others in place of {missing}: leave images that cannot be read out of the data'
            )
        # Processes get a few images twice to have equal shares, and data sets may repeat them.
        place = numbers.new_empty(len(self.numbers))
        place[numbers] = torch.arange(len(numbers), device=numbers.device)
        features, logits = (rows[place] for rows in found)
        return features, logits

    def _predict(self, model: Any, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
        numbers = self.numbers.of(batch['data_samples'], TARGET)
        data = model.data_preprocessor(dict(target=batch), False)
        feats = model.extract_feat(data['inputs'])
        features = model.features_of(feats)
        return torch.tensor(numbers, device=features.device), features, model.logits_of(feats)


def target_loader(runner: Runner, who: str) -> Any:
    """Return the training loader of the target, alone or beside the source's.

    Args:
        runner: The runner of a training.
        who: Who needs it, for the message.

    Raises:
        ValueError: If there is none.
    """
    loader = runner.train_loop.dataloader
    if 'target' not in getattr(loader, 'domains', ()):
        raise ValueError(
            f'{who} looks at the target images of a training, and this one has '
            "none: set train_cfg.type to 'SourceFreeTrainLoop' or 'AdaptationTrainLoop'"
        )
    return getattr(loader, 'target', loader).loader
