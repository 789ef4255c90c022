"""Similarity to the source model by layer over time, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

_LINES = {
    'cosine': ('cosine of features', 1.0),
    'flips': ('flipped predictions', 0.01),
    'drift': ('drift of class centres', 1.0),
}


def similarity_picture(records: Sequence[Mapping], layers: Mapping[int, str], unit: str) -> bytes:
    """Draws one row a domain: CKA by layer over time, and what else was measured.

    Args:
        records: By rising ``step``: ``{'step': 2, 'source': {'cka': {0: 1.0, ...}, 'cosine': ...},
            'target': {...}}``.
        layers: Depth -> name, shallow to deep.
        unit: Of the steps: 'epoch' or 'iteration'.

    Returns:
        A PNG.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    domains = [name for name in records[-1] if name != 'step']
    steps = [record['step'] for record in records]
    height = max(2.2, 0.22 * len(layers)) + 0.9
    figure = Figure(figsize=(10, height * len(domains)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(domains), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), domain in zip(axes, domains):
        grid = np.array([[record[domain]['cka'][depth] for record in records] for depth in layers])
        image = left.imshow(grid, vmin=0, vmax=1, aspect='auto', cmap='viridis', origin='lower')
        figure.colorbar(image, ax=left, label='CKA with the source model')
        shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 10)).round().astype(int))
        left.set_xticks(shown, [str(steps[index]) for index in shown])
        left.set_yticks(range(len(layers)), layers.values(), fontsize=7)
        left.set_title(f'{domain} images: layers, stem at the bottom')
        left.set_xlabel(unit)
        for name, (label, scale) in _LINES.items():
            values = [record[domain][name] * scale for record in records]
            right.plot(steps, values, marker='.', label=label)
        right.set_ylim(bottom=0)
        right.set_title(f'{domain} images: what comes out')
        right.set_xlabel(unit)
        right.grid(alpha=0.3)
        right.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    return buffer.getvalue()
