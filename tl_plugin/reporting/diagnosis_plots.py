"""The diagnosis in pictures: each function takes findings as plain values, returns a data URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np

COLOURS = {'source': '#1f6f8b', 'target': '#c4502a'}
THUMBNAIL = 96
#: Classes that have colours of their own.
COLOURED = 10


def plot_embedding(embedding: dict, by: str) -> str:
    """Draw the two-dimensional map, coloured by ``'domain'`` or ``'label'``."""
    figure, axes = _figure((5, 4.6))
    x, y = np.array(embedding['x']), np.array(embedding['y'])
    groups = np.array([str(name) if name else 'no label' for name in embedding[by]])
    names, counts = np.unique(groups, return_counts=True)
    shown = names[np.argsort(-counts)][:COLOURED]
    from matplotlib import colormaps

    palette = colormaps['tab10'].colors
    domains = np.array(embedding['domain'])
    for number, name in enumerate(sorted(shown)):
        colour = COLOURS.get(name, palette[number % len(palette)])
        label = name
        for domain, marker in (('source', 'o'), ('target', '^')):
            inside = (groups == name) & (domains == domain)
            if inside.any():
                axes.scatter(
                    x[inside],
                    y[inside],
                    s=9,
                    alpha=0.7,
                    lw=0,
                    color=colour,
                    marker=marker,
                    label=label,
                )
                label = None
    others = ~np.isin(groups, shown)
    if others.any():
        axes.scatter(x[others], y[others], s=6, color='#bbbbbb', lw=0, label='other classes')
    axes.set_xticks([])
    axes.set_yticks([])
    # Below: it would hide images inside, and be too small to read on a phone.
    figure.legend(
        loc='outside lower center',
        ncols=3,
        frameon=False,
        fontsize=11,
        markerscale=2,
        handletextpad=0.1,
        columnspacing=1,
    )
    return _data_uri(figure)


def plot_effects(statistics: Sequence[dict], labels: Mapping[str, str]) -> str:
    """Draw how far the target is from the source in each statistic, by its label."""
    rows = list(statistics)[::-1]
    figure, axes = _figure((5.4, 0.28 * len(rows) + 0.9))
    for place, row in enumerate(rows):
        effect = row['effect']
        colour = COLOURS['target'] if row['worse'] else '#666666'
        axes.plot([effect['low'], effect['high']], [place, place], color=colour, lw=2)
        axes.plot(effect['value'], place, 'o', color=colour, ms=5)
    axes.axvline(0, color='#999999', lw=0.8)
    axes.set_yticks(range(len(rows)), [labels[row['name']] for row in rows])
    axes.set_xlabel('target minus source, in standard deviations')
    return _data_uri(figure)


def plot_classes(source: dict, target: dict) -> str:
    """Draw how many images each class has in each domain."""
    names = sorted(set(source) | set(target), key=lambda n: -source.get(n, 0))[:30]
    figure, axes = _figure((5.4, 0.3 * len(names) + 0.9))
    for offset, (domain, counts) in enumerate((('source', source), ('target', target))):
        places = np.arange(len(names)) + 0.38 * offset - 0.19
        axes.barh(
            places,
            [counts.get(name, 0) for name in names],
            0.36,
            color=COLOURS[domain],
            label=domain,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel('readable images')
    axes.legend(frameon=False)
    return _data_uri(figure)


def thumbnail(image: np.ndarray) -> str:
    """Shrink an ``(H, W, 3)`` RGB image to a small JPEG."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    # Good enough that what is seen is the image's fault and not the thumbnail's.
    picture.save(file, format='JPEG', quality=92)
    return _encode(file, 'jpeg')


def _figure(size: tuple[float, float]):
    # Not pyplot: no display is needed, no state is left behind.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    axes = figure.add_subplot()
    axes.spines[['top', 'right']].set_visible(False)
    return figure, axes


def _data_uri(figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=110)
    return _encode(file, 'png')


def _encode(file: io.BytesIO, kind: str) -> str:
    return f'data:image/{kind};base64,' + base64.b64encode(file.getvalue()).decode()
