from __future__ import annotations

from typing import Any

from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from tl_plugin.engine.test_time import TestTimeAdapter, TestTimeOptions
from tl_plugin.reliability.class_sets import has_several_labels
from tl_plugin.stack.protocol import SOURCE

from .adaptation_classifier import AdaptationClassifier


@MODELS.register_module()
class TestTimeClassifier(AdaptationClassifier):
    """Adapt to the images that are predicted, while they are (Tent, SAR), without any label.

    Each prediction of a batch is followed by one step that lowers its entropy, on weights and
    biases of norm layers alone. Batch norms normalise by the batch at hand. Wang et al., "Tent",
    ICLR 2021, arXiv 2006.10726; Niu et al., SAR, ICLR 2023, arXiv 2302.12400, which leaves out
    uncertain images, takes a sharpness-aware step and goes back to the source model where entropy
    falls too low. Images of the domain 'source', and validations of a training, are predicted
    without adaptation. Exported, it is the model that it is then.

    Args:
        *args: As in :class:`AdaptationClassifier`.
        test_time: The options:

            - ``method``: 'tent' or 'sar', which sets the defaults of the others.
            - ``lr``, ``momentum``: of the step (SGD). Default to 0.001 and 0.9.
            - ``margin``: Share of ln K that an image's entropy must stay below to be learned from.
              Defaults to 1 (all) and 0.4.
            - ``rho``: Radius of the sharpness-aware step. Defaults to 0 (a plain one) and 0.05.
            - ``prior``: Number of images that the source's batch statistics are worth beside those
              of the batch (Schneider et al., NeurIPS 2020). Defaults to 0 and 16.
            - ``depth``: Share of the layers, from the stem, whose norms adapt. Defaults to 1 and
              0.75.
            - ``min_entropy``: Share of ln K; below it the moving average of the loss ends in a
              reset. Defaults to 0 (never) and 0.03, the paper's 0.2 for 1,000 classes.
            - ``reset_interval``: Go back to the source model every so many batches (RDumb, Press
              et al., NeurIPS 2023, arXiv 2306.05401). Defaults to None.
            - ``guard``: 'none'; 'reset': go back where the adapted model predicts far fewer
              classes than the source model; 'source': that, and leave to the source model the
              first images, until twice as many have come as a batch (or its window) has, batches
              of few classes or of others than those before, streams in an order by class (Mantel's
              test at 10%), whose statistics don't stand for the domain, and all while its
              predictions tell more of the class (mutual information over the last images) than the
              adapted ones. Defaults to 'reset' and 'source'.
            - ``min_balance``: What 'far fewer', 'few' and 'others' are: a share of those that are
              possible. Defaults to 0.5.
            - ``memory``: How many of the last images the guard looks at. Defaults to 200.
            - ``min_batch``, ``window``: Smaller batches stand beside the last ``window`` images,
              and a step is taken when ``min_batch`` new ones have come; a window of 0 refuses them.
              Networks without batch norm need no window: there a smaller batch takes a step that
              is smaller in proportion, as in SAR's own code. Default to 16 and 64.
        **kwargs: As in :class:`AdaptationClassifier`.

    Raises:
        ValueError: If an option is unknown or out of its range, or the head gives an image several
            classes.

    Attributes:
        adapting: Whether predictions adapt. Training switches it off.
    """

    __test__ = False  # no test, whatever pytest thinks of its name

    def __init__(self, *args: Any, test_time: dict, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.test_time = TestTimeOptions.read(dict(test_time))
        if not isinstance(self.head, ClsHead) or has_several_labels(self.head):
            raise ValueError(
                'test-time adaptation lowers the entropy over classes, one an image, and '
                f'{type(self.head).__name__} is no such head: use LinearClsHead'
            )
        self.adapting = True
        self._adapter: TestTimeAdapter | None = None

    def train(self, mode: bool = True) -> TestTimeClassifier:
        """As in ``nn.Module``; what trains doesn't adapt when it is validated."""
        if mode:
            self.begin_adaptation(False)
        return super().train(mode)

    def begin_adaptation(self, adapting: bool = True) -> None:
        """Take the present weights for the source model's, and adapt from the next batch on.

        Args:
            adapting: False: predict without adaptation.
        """
        self.adapting, self._adapter = adapting, None

    @property
    def adapter(self) -> TestTimeAdapter:
        """Return what adapts the model, made of its present weights the first time."""
        if self._adapter is None:
            self._adapter = TestTimeAdapter(self, self._logits, self.test_time)
        return self._adapter

    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any
    ) -> list[DataSample]:
        """As in ``ImageClassifier``, and adapt."""
        if not self.adapting or self._domain == SOURCE or self.training:
            return super().predict(inputs, data_samples, **kwargs)
        return self.head._get_predictions(self.adapter(inputs), data_samples)

    def _logits(self, inputs: Tensor) -> Tensor:
        return self.logits_of(self.extract_feat(inputs))
