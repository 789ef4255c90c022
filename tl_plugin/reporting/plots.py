"""Every plot of the package: each function takes plain values and returns a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLOURS = {'source': '#1f6f8b', 'target': '#c4502a'}
#: Groups of points that get a colour of their own.
NUM_COLOURED = 10
#: Measure of similarity -> its label, and what it is multiplied by for the plot.
SIMILARITY_MEASURES = {
    'cosine': ('cosine of features', 1.0),
    'flips': ('flipped predictions', 0.01),
    'drift': ('drift of class centres', 1.0),
}


def plot_embedding(
    points: np.ndarray, groups: Sequence[str | None], domains: Sequence[str]
) -> bytes:
    """Draw images as points in two dimensions: circles for the source, triangles for the target.

    Args:
        points: ``(N, 2)``.
        groups: What each point is coloured by: its domain or its class, None where unknown.
        domains: ``'source'`` or ``'target'`` for each point.
    """
    from matplotlib import colormaps

    figure, axes = _figure(size=(5, 4.6))
    x, y = np.asarray(points).T
    groups = np.array([str(name) if name else 'no label' for name in groups])
    domains = np.array(domains)
    names, counts = np.unique(groups, return_counts=True)
    shown = sorted(names[np.argsort(-counts)][:NUM_COLOURED])
    for name, colour in zip(shown, colormaps['tab10'].colors):
        label = name
        for domain, marker in (('source', 'o'), ('target', '^')):
            inside = (groups == name) & (domains == domain)
            if inside.any():
                style = dict(s=9, alpha=0.7, lw=0, color=COLOURS.get(name, colour), marker=marker)
                axes.scatter(x[inside], y[inside], label=label, **style)
                label = None
    others = ~np.isin(groups, shown)
    if others.any():
        axes.scatter(x[others], y[others], s=6, color='#bbbbbb', lw=0, label='other classes')
    axes.set(xticks=[], yticks=[])
    # Below the plot, where it hides no points.
    figure.legend(
        loc='outside lower center',
        ncols=3,
        frameon=False,
        fontsize=11,
        markerscale=2,
        handletextpad=0.1,
        columnspacing=1,
    )
    return _png(figure)


def plot_effects(
    effects: Sequence[tuple[str, tuple[float, float, float], bool]],
    axis: str = 'target minus source, in standard deviations',
) -> bytes:
    """Draw how far the target is from the source in each statistic.

    Args:
        effects: Label, effect with both ends of its interval, and whether it is drawn in colour:
            where the target is worse.
        axis: What the effects are. Defaults to the target minus the source.
    """
    size = (5.4, 0.28 * len(effects) + 0.9)
    figure, axes = _figure(axis, '', size)
    for row, (_, (value, low, high), worse) in enumerate(effects):
        colour = COLOURS['target'] if worse else '#666666'
        axes.plot([low, high], [row, row], color=colour, lw=2)
        axes.plot(value, row, 'o', color=colour, ms=5)
    axes.axvline(0, color='#999999', lw=0.8)
    axes.set_yticks(range(len(effects)), [label for label, *_ in effects])
    axes.invert_yaxis()
    return _png(figure)


def plot_bars(
    groups: Mapping[str, Sequence[float]],
    names: Sequence[str],
    label: str,
    colours: Mapping[str, str],
    max_names: int = 30,
) -> bytes:
    """Draw horizontal bars, those of all groups side by side.

    Args:
        groups: Group -> a value for each name.
        names: What stands beside the bars; left out where there are more than ``max_names``.
        label: Of the values.
        colours: Group -> its colour.
        max_names: Defaults to 30.
    """
    shown = len(names) <= max_names
    height = 0.3 * len(names) + 0.9 if shown else 3.4
    figure, axes = _figure(label, '', (5.4, max(height, 2)))
    width = 0.8 / len(groups)
    for place, (name, values) in enumerate(groups.items()):
        rows = np.arange(len(names)) + (place - (len(groups) - 1) / 2) * width
        axes.barh(rows, values, height=0.95 * width, color=colours[name], label=name)
    axes.invert_yaxis()
    axes.set_yticks(range(len(names)) if shown else (), names if shown else ())
    if len(groups) > 1:
        figure.legend(loc='outside upper right', ncols=2, frameon=False)
    return _png(figure)


def plot_confusion(
    counts: np.ndarray,
    classes: Sequence[str],
    domain: str,
    totals: np.ndarray | None = None,
) -> bytes:
    """Draw a confusion matrix in shares of each true class.

    Args:
        counts: ``(K, K)``, true classes by predicted ones.
        classes: K names.
        domain: ``'source'`` or ``'target'``, which sets the colour.
        totals: Images of each class, ``(K,)``, where other classes are left out. Defaults to None,
            the sums of the rows.
    """
    totals = counts.sum(axis=1) if totals is None else totals
    shares = counts / np.maximum(totals, 1)[:, None]
    figure, axes = _figure('predicted', 'true', (3.4, 3.4))
    axes.imshow(shares, vmin=0, vmax=1, cmap='Blues' if domain == 'source' else 'Oranges')
    if len(classes) <= 20:
        upright = max(map(len, classes), default=0) <= 2
        axes.set_xticks(range(len(classes)), classes, rotation=0 if upright else 90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 12:
        texts = np.where(shares >= 0.005, np.char.mod('%.0f', 100 * shares), '')
        _write_cells(axes, texts, shares > 0.5, size=6)
    return _png(figure)


def plot_loss(runs: Sequence[Sequence[tuple[int, float]]]) -> bytes:
    """Draw the training loss of several seeds, each given as pairs of step and loss."""
    figure, axes = _figure('training iteration', 'loss')
    for run in runs:
        axes.plot([step for step, _ in run], [loss for _, loss in run], color='#444444', lw=1)
    axes.set_ylim(bottom=0)
    return _png(figure)


def plot_validation(
    source: Sequence[Sequence[tuple[int, float]]],
    target: Sequence[Sequence[tuple[int, float]]],
    target_is_accuracy: bool = True,
) -> bytes:
    """Draw validation on both domains during training, a line a seed.

    Args:
        source: Pairs of step and accuracy in percent, for each seed.
        target: Likewise; of a target without labels its label-free score, which gets an axis of
            its own.
        target_is_accuracy: Whether it is an accuracy.
    """
    figure, axes = _figure('epoch or iteration', 'validation accuracy, %')
    axes.set_ylim(0, 101)
    places = {'source': axes, 'target': axes}
    if not target_is_accuracy and any(target):
        places['target'] = axes.twinx()
        places['target'].set_ylabel('target score, label-free', color=COLOURS['target'])
        places['target'].spines['top'].set_visible(False)
    for domain, runs in (('source', source), ('target', target)):
        for seed, points in enumerate(runs):
            if points:
                label = None if seed else domain
                style = dict(color=COLOURS[domain], lw=1, marker='.', label=label)
                places[domain].plot(*zip(*points), **style)
    figure.legend(loc='outside upper right', ncols=2, frameon=False)
    return _png(figure)


def plot_tradeoff(
    points: Mapping[int, tuple[float, float]],
    source_intervals: Mapping[int, Sequence[float] | None],
    target_intervals: Mapping[int, Sequence[float] | None],
    target_label: str,
    chosen: int | None = None,
    frontier: Sequence[int] = (),
) -> bytes:
    """Draw what is reached on the target against source accuracy.

    Args:
        points: Number that is written beside a point -> source and target value.
        source_intervals: Number -> lower and upper end of the source's interval, if there is one.
        target_intervals: Likewise of the target.
        target_label: Of the upright axis.
        chosen: Number of the point that is marked with a star.
        frontier: Numbers of the points that the dashed line joins, by rising source value.
    """
    figure, axes = _figure('source accuracy, %', target_label, (5.4, 4.0))
    for number, (x, y) in points.items():
        star = number == chosen
        axes.errorbar(
            x,
            y,
            _error_bars(y, target_intervals.get(number)),
            _error_bars(x, source_intervals.get(number)),
            elinewidth=0.6,
            alpha=0.85,
            marker='*' if star else 'o',
            markersize=15 if star else 6,
            capsize=2,
            color=COLOURS['target' if star else 'source'],
            ls='none',
        )
    if frontier:
        axes.plot(*zip(*(points[number] for number in frontier)), ls='--', lw=0.8, color='#888888')
    axes.margins(0.1)
    for place, numbers in _shared_labels(points):
        text = ', '.join(map(str, numbers))
        axes.annotate(text, place, xytext=(6, 5), textcoords='offset points', fontsize=11)
    return _png(figure)


def plot_layer_similarity(
    cka: Mapping[int, Sequence[float | None]], layers: Sequence[str]
) -> bytes:
    """Draw how similar each model's layers are to the source model's, one row a model.

    Args:
        cka: Number that a model is called by -> CKA by layer, None where it is unknown.
        layers: Names of the layers, shallow to deep; long ones are shortened.
    """
    grid = np.array([[np.nan if v is None else v for v in row] for row in cka.values()])
    names = [_last_parts(name) for name in layers]
    # The names of the layers need room below, even where there is one row alone.
    below = max(1.6, 1.0 + 0.09 * max(map(len, names)))
    size = (1.0 + 0.42 * max(len(layers), 4), below + 0.32 * len(cka))
    figure, axes = _figure('layers, from the image to the decision', 'rung', size)
    axes.imshow(grid, vmin=0, vmax=1, cmap='viridis', aspect='auto')
    axes.set_xticks(range(len(layers)), names, rotation=90)
    axes.set_yticks(range(len(cka)), list(cka))
    texts = np.char.lstrip(np.char.mod('%.2f', np.maximum(grid, 0)), '0')
    texts[grid >= 0.995] = '1'
    texts[np.isnan(grid)] = ''
    _write_cells(axes, texts, grid <= 0.6)
    return _png(figure)


def plot_similarity(records: Sequence[Mapping], layers: Mapping[int, str], unit: str) -> bytes:
    """Draw one row a domain: CKA with the source model by layer over time, and other measures.

    Args:
        records: By rising ``step``: ``{'step': 2, 'source': {'cka': {0: 1.0, ...}, 'cosine': ...},
            'target': {...}}``.
        layers: Depth -> name, shallow to deep.
        unit: Of the steps: ``'epoch'`` or ``'iteration'``.
    """
    domains = [name for name in records[-1] if name != 'step']
    steps = [record['step'] for record in records]
    height = max(2.2, 0.22 * len(layers)) + 0.9
    figure = _empty_figure((10, height * len(domains)))
    axes = figure.subplots(len(domains), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), domain in zip(axes, domains):
        grid = np.array([[record[domain]['cka'][depth] for record in records] for depth in layers])
        image = left.imshow(grid, vmin=0, vmax=1, aspect='auto', cmap='viridis', origin='lower')
        figure.colorbar(image, ax=left, label='CKA with the source model')
        shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 10)).round().astype(int))
        left.set_xticks(shown, [str(steps[index]) for index in shown])
        left.set_yticks(range(len(layers)), layers.values(), fontsize=7)
        left.set(title=f'{domain} images: layers, stem at the bottom', xlabel=unit)
        for name, (label, scale) in SIMILARITY_MEASURES.items():
            values = [record[domain][name] * scale for record in records]
            right.plot(steps, values, marker='.', label=label)
        right.set(title=f'{domain} images: features and predictions', xlabel=unit)
        right.set_ylim(bottom=0)
        right.grid(alpha=0.3)
        right.legend(fontsize=8)
    return _png(figure)


def plot_interpolation(
    points: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], target_label: str
) -> bytes:
    """Draw models between two others by source and target value.

    Args:
        points: ``alpha`` in [0, 1], ``statistics`` (``'own'``, ``'interpolated'`` or
            ``'estimated'``), ``source`` and ``target`` of each.
        chosen: One of them.
        target_label: Of the upright axis.
    """
    figure, axes = _figure('source validation accuracy, %', target_label, (6.4, 4.8))
    for line, kinds in (('-', ('estimated',)), ('--', ('interpolated', 'own'))):
        curve = sorted((p for p in points if p['statistics'] in kinds), key=lambda p: p['alpha'])
        if {point['statistics'] for point in curve} <= {'own'}:
            continue
        places = [(point['source'], point['target']) for point in curve]
        label = f'batch statistics {kinds[0]}'
        style = dict(color=COLOURS['source'], marker='o', ms=4, lw=1, label=label)
        axes.plot(*zip(*places), line, **style)
        for point, place in zip(curve, places):
            style = dict(textcoords='offset points', xytext=(5, 4), fontsize=8)
            axes.annotate(f'{point["alpha"]:g}', place, **style)
    for point in points:
        if point['statistics'] == 'own':
            name, marker = ('adapted', '^') if point['alpha'] else ('source', 's')
            style = dict(color='#444444', ms=7, label=f'{name} model as it is')
            axes.plot(point['source'], point['target'], marker, **style)
    style = dict(ms=12, mfc='none', mec=COLOURS['target'], mew=2)
    label = f'chosen: alpha {chosen["alpha"]:g}'
    axes.plot(chosen['source'], chosen['target'], 'o', label=label, **style)
    axes.set_title('Weights between the source model and the adapted one')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def plot_corruptions(curves: Mapping[str, Sequence[float]], clean: float, domain: str) -> bytes:
    """Draw accuracy by severity, a line for each corruption.

    Args:
        curves: Corruption -> accuracy in percent at the severities 1, 2, ...
        clean: Accuracy without a corruption, at severity 0.
        domain: Whose images.
    """
    from matplotlib import colormaps

    figure, axes = _figure('severity', f'accuracy on {domain}, %', size=(5.4, 3.4))
    for name, colour in zip(curves, colormaps['tab10'].colors * (len(curves) // 10 + 1)):
        values = [clean, *curves[name]]
        axes.plot(range(len(values)), values, marker='.', color=colour, label=name)
    axes.set_ylim(0, 100)
    axes.legend(fontsize=7, loc='lower left', ncols=2)
    return _png(figure)


def _empty_figure(size: tuple[float, float]) -> Any:
    # Not pyplot: no display is needed, and no state is left behind.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout='constrained')


def _figure(x_label: str = '', y_label: str = '', size: tuple[float, float] = (4.6, 2.8)) -> Any:
    figure = _empty_figure(size)
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.spines[['top', 'right']].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    return buffer.getvalue()


def _write_cells(axes: Any, texts: np.ndarray, dark: np.ndarray, size: int = 9) -> None:
    """Write into the cells of an image, in white on those that are dark."""
    for (row, column), text in np.ndenumerate(texts):
        colour = 'white' if dark[row, column] else 'black'
        axes.text(column, row, text, ha='center', va='center', fontsize=size, color=colour)


def _error_bars(value: float, interval: Sequence[float] | None) -> list[list[float]] | None:
    """Return how far an interval reaches below and above a value."""
    return interval and [[max(value - interval[0], 0)], [max(interval[1] - value, 0)]]


def _last_parts(name: str) -> str:
    while len(name) > 12 and '.' in name:
        name = name.split('.', 1)[1]
    return name


def _shared_labels(
    points: Mapping[int, tuple[float, float]],
) -> list[tuple[tuple[float, float], list[int]]]:
    """Group the numbers of points that lie too close together for a label each."""
    spans = [np.ptp(axis) or 1.0 for axis in zip(*points.values())]
    labels: list[tuple[tuple[float, float], list[int]]] = []
    for number, place in points.items():
        for first, numbers in labels:
            if all(abs(a - b) < 0.04 * span for a, b, span in zip(first, place, spans)):
                numbers.append(number)
                break
        else:
            labels.append((place, [number]))
    return labels
