"""The report: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from tl_plugin.reliability.files import read_json

from . import curves
from .extras import attempt
from .recommend import ACCURACY, BASELINE
from .records import TARGET, LadderResults, Predictions, RungResult
from .results import DOMAINS, read_predictions
from .table import columns, has_accuracy, interval_note, notes
from .target_labels import build_dataset

REPORT_NAME = 'report.html'
TEMPLATE = Path(__file__).with_name('report.html.j2')
NUM_SAMPLES = 10

#: Rung -> a prediction for each seed: domain -> what it says.
AllPredictions = Mapping[str, Sequence[Mapping[str, Predictions]]]


def make_report(results: LadderResults, cfg: Config) -> str:
    """Return the report's HTML.

    A part that can't be made, such as sample images of files that are gone, is left out; the report
    says so.

    Args:
        results: Of a climb, with at least one rung.
        cfg: The config that the ladder stands on; its test data give the sample images.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    left_out: dict[str, str] = {}
    predictions = {rung.name: list(read_predictions(rung).values()) for rung in results.rungs}
    datasets = {
        domain: attempt(
            f'sample images of the {domain}', partial(build_dataset, cfg, domain), left_out
        )
        for domain in DOMAINS
    }
    classes = class_names(datasets['source'], predictions)
    # Without a recommendation the report shows what doing nothing gives.
    chosen = results.recommended or results.rungs[0]
    flip = to_rgb(cfg)

    def shown(domain: str, make: Callable, *arguments: Any) -> Any:
        dataset = datasets[domain]
        if dataset is None:
            return None
        what = f'sample images of the {domain}'
        return attempt(what, lambda: make(dataset, *arguments), left_out)

    return template.render(
        results=results,
        columns=columns(results),
        notes=[*notes(results), *results.notes],
        chosen=chosen,
        labelled=has_accuracy(results, TARGET),
        by_accuracy=not results.recommendation or results.recommendation.measure == ACCURACY,
        impossible=_by_reason(results.left_out),
        overview=attempt('overview', lambda: curves.plot_overview(results), left_out),
        intervals=interval_note(results),
        kept=attempt('layers', lambda: kept_layers(results), left_out),
        flips=shown(TARGET, flips, classes, predictions, chosen.name, flip),
        baseline=results.rung(BASELINE),
        samples={
            domain: shown(domain, samples, domain, classes, predictions, chosen.name, flip) or []
            for domain in DOMAINS
        },
        rungs=[_rung_pictures(rung, predictions, classes, left_out) for rung in results.rungs],
        left_out=left_out,
    )


def class_names(dataset: Any, predictions: AllPredictions) -> list[str]:
    """The classes' names, and their numbers where the data set names none."""
    names = list(map(str, (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()))
    seen = [
        int(label)
        for seeds in predictions.values()
        for seed in seeds
        for found in seed.values()
        for label in (*found.truths(), *found.predicted)
    ]
    return names + [str(label) for label in range(len(names), max(seen, default=-1) + 1)]


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason, []).append(name)
    return found


def to_rgb(cfg: Config) -> bool:
    """Whether the pipeline gives BGR, which the model's preprocessor turns around."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return bool(preprocessor.get('to_rgb'))


def _first_seed(predictions: AllPredictions, rung: str, domain: str) -> Predictions | None:
    seeds = predictions.get(rung) or [{}]
    return seeds[0].get(domain)


def samples(
    dataset: Any,
    domain: str,
    classes: Sequence[str],
    predictions: AllPredictions,
    best: str,
    flip: bool,
) -> list[dict]:
    """Pick test images, as many classes as there is room for, with what two rungs say of them.

    Classes are the true ones, each once; where no image has a label, those that the rung predicts,
    in turn.

    Returns:
        Dicts of ``image`` (data URI), ``truth`` (None without a label) and ``said``, rung ->
        predicted class, and ``confidence``, rung -> in percent.
    """
    first = _first_seed(predictions, best, domain)
    if first is None:
        return []
    if first.labelled:
        found, firsts = np.unique(first.truths(), return_index=True)
        chosen = firsts[found >= 0]
    else:
        chosen = _in_turn(first.predicted)
    said = {
        rung: own
        for rung in dict.fromkeys([BASELINE, best])
        if (own := _first_seed(predictions, rung, domain)) is not None
    }
    return [_sample(dataset, int(index), classes, said, flip) for index in chosen[:NUM_SAMPLES]]


def _in_turn(labels: Sequence[int]) -> list[int]:
    """Places of the labels: the first of each, then the second of each, and so on.

    >>> _in_turn([5, 5, 5, 3])
    [3, 0, 1, 2]
    """
    seen: dict[int, int] = {}
    rounds = []
    for label in labels:
        rounds.append(seen.setdefault(label, 0))
        seen[label] += 1
    return sorted(range(len(labels)), key=lambda place: (rounds[place], labels[place]))


def flips(
    dataset: Any, classes: Sequence[str], predictions: AllPredictions, chosen: str, flip: bool
) -> list[dict]:
    """Pick target test images whose prediction the chosen rung changed.

    Returns:
        Groups of ``title``, ``count`` and ``samples``, as many as :func:`samples` shows: those that
        it turned right and those that it turned wrong; without labels those that it changed.
        Nothing where doing nothing was chosen.
    """
    before, after = (_first_seed(predictions, name, TARGET) for name in (BASELINE, chosen))
    if chosen == BASELINE or before is None or after is None or len(before) != len(after):
        return []
    truth = after.truths()
    was, now = (np.array(found.predicted) for found in (before, after))
    if after.labelled:
        groups = {
            'Wrong before, right now': (was != truth) & (now == truth),
            'Right before, wrong now': (was == truth) & (now != truth),
        }
    else:
        groups = {f'Another class than {BASELINE} says': was != now}
    said = {BASELINE: before, chosen: after}
    return [
        {
            'title': title,
            'count': int(which.sum()),
            'samples': [
                _sample(dataset, int(index), classes, said, flip)
                for index in np.flatnonzero(which)[:NUM_SAMPLES]
            ],
        }
        for title, which in groups.items()
    ]


def kept_layers(results: LadderResults) -> dict | None:
    """Pictures of how alike the rungs' layers are to the source model's, where it was measured.

    Returns:
        ``pictures``, domain -> image and words; ``names`` by number; ``images`` by domain and
        ``seconds`` a rung; None where no rung was compared.
    """
    numbered = dict(enumerate(results.rungs, 1))
    rungs = {n: rung for n, rung in numbered.items() if rung.kept_layers and rung.name != BASELINE}
    if not rungs:
        return None
    first = next(iter(rungs.values())).kept_layers
    # A rung of another network has layers of its own.
    rungs = {n: r for n, r in rungs.items() if r.kept_layers['layers'] == first['layers']}
    pictures = {}
    for domain in DOMAINS:
        last = {r.name: r.kept_layers[domain]['cka'][-1] for r in rungs.values()}
        words = '; '.join(f'{name} {cka:.2f}' for name, cka in last.items() if cka is not None)
        pictures[domain] = {'image': curves.plot_kept_layers(rungs, domain), 'words': words}
    return {
        'pictures': pictures,
        'names': {number: rung.name for number, rung in rungs.items()},
        'images': first['images'],
        'seconds': np.mean([rung.kept_layers['seconds'] for rung in rungs.values()]),
    }


def _sample(
    dataset: Any, index: int, classes: Sequence[str], said: Mapping[str, Predictions], flip: bool
) -> dict:
    inputs = np.asarray(dataset[index]['inputs'])
    image = np.ascontiguousarray((inputs[::-1] if flip else inputs).transpose(1, 2, 0))
    truth = next(iter(said.values())).truth[index]
    return {
        'image': curves.image_data_uri(image),
        'truth': None if truth is None else classes[truth],
        'said': {rung: classes[found.predicted[index]] for rung, found in said.items()},
        'confidence': {
            rung: f'{100 * found.confidence[index]:.0f}%' for rung, found in said.items()
        },
    }


def _rung_pictures(
    rung: RungResult,
    predictions: AllPredictions,
    classes: Sequence[str],
    left_out: dict[str, str],
) -> dict:
    def shown(what: str, make: Callable, *arguments: Any) -> Any:
        return attempt(f'{what} of {rung.name}', lambda: make(*arguments), left_out)

    records = shown('curves', lambda: [curves.read_scalars(Path(f)) for f in rung.folders]) or []
    training, validation = ([record[part] for record in records] for part in (0, 1))
    ends = [run[-1]['loss'] for run in training if run]
    pictures = {
        domain: shown(f'{domain} predictions', _predicted, rung, domain, predictions, classes)
        for domain in DOMAINS
    }
    return {
        'row': rung,
        'loss': shown('loss', curves.plot_loss, training) if ends else None,
        'final_loss': f'{np.mean(ends):.3f}' if ends else None,
        'validation': shown('validation', curves.plot_validation, validation),
        'sweep': shown('interpolation', _sweep, rung),
        'predicted': {domain: found for domain, found in pictures.items() if found},
    }


def _predicted(
    rung: RungResult, domain: str, predictions: AllPredictions, classes: Sequence[str]
) -> dict | None:
    """A picture of what a rung predicts on a domain, and the picture in words.

    It is the confusion matrix of the images with labels; where none has one, how often each class
    is predicted, beside the source model.
    """
    found = [seed[domain] for seed in predictions[rung.name] if domain in seed]
    if not found:
        return None
    if any(seed.labelled for seed in found):
        counts = curves.confusion_matrix(found, len(classes))
        confused = _most_confused(counts, classes)
        return {
            'image': curves.plot_confusion(counts, classes, domain),
            'alt': f'Confusion matrix of {rung.name} on {domain} test images: {confused}',
            'caption': f'{domain.capitalize()} test images, percent of each true class: {confused}',
        }
    before = [seed[domain] for seed in predictions.get(BASELINE, ()) if domain in seed]
    models = {BASELINE: before} if before else {}
    models[rung.name] = found
    shares = {name: _class_shares(seeds, len(classes)) for name, seeds in models.items()}
    words = _most_predicted(shares[rung.name], classes)
    return {
        'image': curves.plot_predicted(shares, classes),
        'alt': f'How often {rung.name} predicts each class on {domain} test images: {words}',
        'caption': f'{domain.capitalize()} test images, which have no labels: how often each class '
        f'is predicted ({words})',
    }


def _class_shares(seeds: Sequence[Predictions], num_classes: int) -> np.ndarray:
    said = np.concatenate([np.array(seed.predicted, dtype=int) for seed in seeds])
    return 100 * np.bincount(said, minlength=num_classes) / max(len(said), 1)


def _most_predicted(shares: np.ndarray, classes: Sequence[str], number: int = 3) -> str:
    order = np.argsort(-shares, kind='stable')[:number]
    return ', '.join(f'{classes[index]} {shares[index]:.0f}%' for index in order)


def _sweep(rung: RungResult) -> dict | None:
    """The first seed's interpolation, if the rung is one."""
    folder = Path(rung.folders[0])
    found = read_json(folder / 'interpolation.json')
    if found is None:
        return None
    picture = curves.png_data_uri((folder / 'interpolation.png').read_bytes())
    return {'image': picture, 'chosen': found['chosen']}


def _most_confused(counts: np.ndarray, classes: Sequence[str], number: int = 3) -> str:
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(mistakes, axis=None)[::-1][:number]
    pairs = [np.unravel_index(index, counts.shape) for index in order]
    named = [
        f'{classes[truth]} taken for {classes[said]} ({mistakes[truth, said]} times)'
        for truth, said in pairs
        if mistakes[truth, said]
    ]
    return ', '.join(named) or 'no mistakes'
