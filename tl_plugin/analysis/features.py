"""A model's features of images: computed, reduced, and laid out in two dimensions."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.registry import DATASETS, MODELS

from tl_plugin.evaluation.source_reference import degraded_copies
from tl_plugin.intake.trained_model import leave_out_weights
from tl_plugin.reliability.initial_weights import announce_checkpoint
from tl_plugin.stack.messages import quiet

#: Images at a time. Activations of larger batches outgrow what the allocator keeps: on a CPU the
#: system then spends longer on handing out memory than the model computes.
CPU_BATCH, GPU_BATCH = 8, 64
#: Directions of the features that the gap is measured in, those in which images differ most.
COMPONENTS = 64
#: Images of a domain that the two-dimensional layout shows.
NUM_EMBEDDED = 500


def build_model(cfg: Config, weights: bool = True) -> torch.nn.Module:
    """Build a config's model as a Runner does; the config isn't changed.

    Args:
        cfg: The config.
        weights: Whether it gets its weights, those of ``load_from`` included, and is ready to
            predict on the GPU, if there is one. False leaves random weights on the CPU.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        # Copies, because classifiers write defaults into them.
        model = copy.deepcopy(cfg.model)
        if cfg.get('data_preprocessor') is not None:
            model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        if not weights:
            leave_out_weights(model)
            with quiet([MMLogger.get_current_instance()]):  # TIMMBackbone lists its stages
                return MODELS.build(model)
        built = MODELS.build(model)
    announce_checkpoint(built, cfg.get('load_from'))
    # mmengine logs each single weight that it initialises.
    with quiet([*MMLogger._instance_dict.values(), logging.getLogger()]):
        built.init_weights()
    if cfg.get('load_from'):
        load_checkpoint(built, cfg.load_from, map_location='cpu')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return built.eval().to(device)


@torch.inference_mode()
def extract_features(
    model: torch.nn.Module,
    dataset: dict,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Compute the inputs of a model's last layer.

    Args:
        model: A classifier of mmpretrain, with a head that has ``pre_logits``.
        dataset: Config of the images' data set.
        batch_size: Images at a time. None: :data:`CPU_BATCH` on a CPU, :data:`GPU_BATCH` on a GPU.
        advance: Called with the number of images that were finished since the last call.

    Returns:
        ``(N, D)``, float32, in the data set's order.
    """
    found = _forward(model, _build(dataset), batch_size, advance)
    return np.concatenate([_inputs_of_head(model, feats) for feats in found])


@torch.inference_mode()
def extract_degraded_features(
    model: torch.nn.Module,
    datasets: Iterable[dict],
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Compute features of degraded copies of images, which are read once and all kept in memory.

    Args:
        model: As in :func:`extract_features`.
        datasets: Configs of the images' data sets; each is built before the next is asked for.
        seed: Draws the corruptions. Defaults to 0.
        advance: As in :func:`extract_features`.

    Returns:
        ``(S, N, D)``, float32: degradations in the order of
        :func:`~tl_plugin.evaluation.source_reference.degradations`, images in that of the data.
    """
    samples = [sample for dataset in datasets for sample in _read(_build(dataset))]
    found = []
    for _, copies in degraded_copies([sample['inputs'] for sample in samples], seed):
        changed = [{**sample, 'inputs': copy} for sample, copy in zip(samples, copies)]
        rows = [_inputs_of_head(model, feats) for feats in _forward(model, changed, None, advance)]
        found.append(np.concatenate(rows))
    return np.stack(found)


@torch.inference_mode()
def extract_outputs(
    model: torch.nn.Module,
    dataset: dict,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the inputs of a model's last layer, and what it makes of them.

    Args:
        model: As in :func:`extract_features`.
        dataset: Likewise.
        batch_size: Likewise.
        advance: Likewise.

    Returns:
        Features ``(N, D)`` and scores of the classes ``(N, K)``, float32.
    """
    rows, scores = [], []
    for feats in _forward(model, _build(dataset), batch_size, advance):
        rows.append(_inputs_of_head(model, feats))
        scores.append(model.head(feats).flatten(1).float().cpu().numpy())
    return np.concatenate(rows), np.concatenate(scores)


def _inputs_of_head(model: torch.nn.Module, feats: Any) -> np.ndarray:
    return model.head.pre_logits(feats).flatten(1).float().cpu().numpy()


def _build(dataset: dict) -> Any:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(Config(dataset)._cfg_dict)


def _read(images: Any) -> list[dict]:
    return [images[index] for index in range(len(images))]


def _forward(
    model: torch.nn.Module,
    images: Any,
    batch_size: int | None,
    advance: Callable[[int], None],
) -> Iterator[Any]:
    from mmengine.dataset import pseudo_collate

    on_cpu = next(model.parameters()).device.type == 'cpu'
    batch_size = batch_size or (CPU_BATCH if on_cpu else GPU_BATCH)
    for start in range(0, len(images), batch_size):
        batch = [images[i] for i in range(start, min(start + batch_size, len(images)))]
        count, batch = len(batch), pseudo_collate(batch)
        yield model.extract_feat(model.data_preprocessor(batch, training=False)['inputs'])
        advance(count)


def reduce_features(
    source: np.ndarray, target: np.ndarray, components: int = COMPONENTS, *more: np.ndarray
) -> tuple[np.ndarray | float, ...]:
    """Project both domains on their joint principal components.

    Args:
        source: ``(N, D)``.
        target: ``(M, D)``.
        components: How many at most; a quarter of the smaller domain's images bounds them too.
        *more: Other images, ``(..., D)``, which are projected alike and have no part in what the
            components are.

    Returns:
        Both, centred, with a mean squared length of 1, and the share of the variance they keep;
        then the other images.

    Raises:
        ValueError: If a domain has fewer than 8 images, or a feature isn't finite.
    """
    from sklearn.decomposition import PCA

    if min(len(source), len(target)) < 8:
        raise ValueError(
            f'a domain gap needs 8 readable images of each domain or more, got {len(source)} of '
            f'the source and {len(target)} of the target'
        )
    joint = np.concatenate([source, target]).astype(np.float64)
    if not np.isfinite(joint).all():
        raise ValueError('some features are not finite: check the model and its checkpoint')
    limit = max(min(len(source), len(target)) // 4, 2)
    pca = PCA(min(components, joint.shape[1], limit), svd_solver='randomized', random_state=0)
    joint = pca.fit_transform(joint)
    length = max(np.sqrt((joint**2).sum(1).mean()), 1e-12)
    joint /= length
    others = [
        pca.transform(rows.reshape(-1, rows.shape[-1])).reshape(*rows.shape[:-1], -1) / length
        for rows in more
    ]
    explained = float(np.clip(np.nan_to_num(pca.explained_variance_ratio_.sum()), 0, 1))
    return joint[: len(source)], joint[len(source) :], explained, *others


def embed(
    source: np.ndarray, target: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Lay out images in two dimensions, similar ones near each other.

    t-SNE (van der Maaten and Hinton, JMLR 2008) from scikit-learn, begun at the first two principal
    components; these alone for less than 30 images. Near means similar; sizes of clusters
    and distances between them mean nothing.

    Args:
        source: ``(N, D)``.
        target: ``(M, D)``.
        seed: Which images are shown.

    Returns:
        Indices of the source's images that are shown, those of the target, ``(shown, 2)``, and the
        name of the method.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    chosen = [np.sort(rng.permutation(len(part))[:NUM_EMBEDDED]) for part in (source, target)]
    joint = np.concatenate([source[chosen[0]], target[chosen[1]]])
    if len(joint) < 30:
        return *chosen, PCA(2).fit_transform(joint), 'PCA'
    perplexity = min(30, len(joint) / 4)
    layout = TSNE(2, perplexity=perplexity, init='pca', random_state=seed, n_jobs=1)
    # So few points gain nothing by threads, which wait for each other thousands of times: where
    # something else runs too, that is most of the time.
    with threadpool_limits(1):
        return *chosen, layout.fit_transform(joint.astype(np.float32)), 't-SNE'
