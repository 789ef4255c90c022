from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div

from .checks import check_images
from .precision import full_precision


@full_precision
def distillation_loss(source: Tensor, adapted: Tensor, temperature: float = 2.0) -> Tensor:
    r"""How far predictions have moved from the source model's (LwF's distillation loss).

    Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282. With probabilities
    p at temperature T, the mean over images of :math:`KL(p^0 \Vert p)`. The paper's cross-entropy
    differs from it by the entropy of :math:`p^0`, which has no gradient; like the paper and TLlib
    it isn't multiplied by :math:`T^2`.

    Args:
        source: The source model's logits, (N, K). They get no gradient.
        adapted: The adapted model's logits of the same images, (N, K).
        temperature: Divides both; larger ones look at less likely classes, too. Defaults to 2, as
            in the paper.

    Returns:
        A 0-d tensor, not negative, 0 where the predictions are equal.

    Raises:
        ValueError: If there is no image, the shapes differ, or the temperature isn't positive.
    """
    if source.shape != adapted.shape:
        raise ValueError(
            f'both models must give logits of one shape, got {tuple(source.shape)} (source) and '
            f'{tuple(adapted.shape)} (adapted)'
        )
    check_images('distillation', images=adapted)
    if temperature <= 0:
        raise ValueError(f'temperature must be > 0, got {temperature}')
    teacher = (source.detach() / temperature).log_softmax(dim=1)
    student = (adapted / temperature).log_softmax(dim=1)
    return kl_div(student, teacher, reduction='batchmean', log_target=True)
