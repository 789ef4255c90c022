"""Many features in two dimensions, to be looked at."""

from __future__ import annotations

import numpy as np

#: Images of a domain that are shown.
SHOWN = 500


def embed(
    source: np.ndarray, target: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Lay out images so that alike ones lie near each other.

    t-SNE (van der Maaten and Hinton, JMLR 2008) from scikit-learn, begun at the first two principal
    components; these alone for less than 30 images. Near means alike; sizes of clusters and
    distances between them mean nothing.

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
    chosen = [np.sort(rng.permutation(len(part))[:SHOWN]) for part in (source, target)]
    joint = np.concatenate([source[chosen[0]], target[chosen[1]]])
    if len(joint) < 30:
        return *chosen, PCA(2).fit_transform(joint), 'PCA'
    perplexity = min(30, len(joint) / 4)
    layout = TSNE(2, perplexity=perplexity, init='pca', random_state=seed, n_jobs=1)
    # So few points gain nothing by threads, which wait for each other thousands of times: where
    # something else runs too, that is most of the time.
    with threadpool_limits(1):
        return *chosen, layout.fit_transform(joint.astype(np.float32)), 't-SNE'
