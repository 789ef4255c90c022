"""The report of a climb: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from tl_plugin.analysis.corruption_curves import curves_in_words, curves_of
from tl_plugin.reliability.fault_tolerance import attempt
from tl_plugin.reporting import plots
from tl_plugin.reporting.page import render_page, thumbnail
from tl_plugin.stack.protocol import TARGET

from .recommend import BASELINE, TARGET_ACCURACY, TARGET_SCORE
from .records import LadderResults, RungResult
from .results import read_predictions
from .run_records import DOMAINS, Predictions
from .rung_plots import AllPredictions, rung_plots
from .table import columns, has_accuracy, interval_note, notes
from .target_labels import build_domain_dataset

REPORT_NAME = 'report.html'
TEMPLATE = Path(__file__).with_name('report.html.j2')
NUM_SAMPLES = 10


def make_report(results: LadderResults, cfg: Config) -> str:
    """Return the report's HTML.

    Whatever can't be made, such as sample images of files that are gone, is left out, and the
    report says so.

    Args:
        results: Of a climb, with at least one rung.
        cfg: The base config of the ladder; its test data give the sample images.
    """
    left_out: dict[str, str] = {}
    predictions = {rung.name: list(read_predictions(rung).values()) for rung in results.rungs}
    datasets = {
        domain: attempt(
            f'sample images of the {domain}', partial(build_domain_dataset, cfg, domain), left_out
        )
        for domain in DOMAINS
    }
    classes = label_names(datasets['source'], predictions)
    # Without a recommendation the report shows the source model.
    chosen = results.recommended or results.rungs[0]
    images = {
        domain: SampleImages(dataset, classes, first_seed(predictions, domain), is_bgr(cfg))
        for domain, dataset in datasets.items()
        if dataset is not None
    }

    def shown(domain: str, make: Callable) -> list[dict]:
        if domain not in images:
            return []
        what = f'sample images of the {domain}'
        return attempt(what, lambda: make(images[domain], chosen.name), left_out) or []

    impossible: dict[str, list[str]] = {}
    for name, reason in results.left_out.items():
        impossible.setdefault(reason, []).append(name)
    return render_page(
        TEMPLATE,
        results=results,
        columns=columns(results),
        notes=[*notes(results), *results.notes],
        chosen=chosen,
        labelled=has_accuracy(results, TARGET),
        by_accuracy=not results.recommendation or results.recommendation.measure == TARGET_ACCURACY,
        impossible=impossible,
        overview=attempt('overview', lambda: _overview(results), left_out),
        intervals=interval_note(results),
        kept=attempt('layers', lambda: _layer_similarity(results), left_out),
        changes=shown(TARGET, SampleImages.changed),
        baseline=results.rung(BASELINE),
        corrupted=attempt('corruptions', lambda: _corruptions(chosen), left_out),
        samples={domain: shown(domain, SampleImages.examples) for domain in DOMAINS},
        rungs=[rung_plots(rung, predictions, classes, left_out) for rung in results.rungs],
        left_out=left_out,
    )


def label_names(dataset: Any, predictions: AllPredictions) -> list[str]:
    """Return the classes' names, and their numbers where the data set names none."""
    names = list(map(str, (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()))
    highest = [
        int(np.max([*found.predicted, *found.truths()]))
        for seeds in predictions.values()
        for seed in seeds
        for found in seed.values()
        if len(found)
    ]
    return names + [str(label) for label in range(len(names), max(highest, default=-1) + 1)]


def is_bgr(cfg: Config) -> bool:
    """Return whether the pipeline gives BGR, which the model's preprocessor turns into RGB."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return bool(preprocessor.get('to_rgb'))


def first_seed(predictions: AllPredictions, domain: str) -> dict[str, Predictions]:
    """Return what each rung's first seed predicts on a domain, for rungs that have predictions."""
    return {
        rung: seeds[0][domain]
        for rung, seeds in predictions.items()
        if seeds and domain in seeds[0]
    }


@dataclass(frozen=True)
class SampleImages:
    """Test images of one domain, each with what rungs predict.

    Args:
        dataset: Gives the images, in the order of the predictions.
        classes: Names of the classes.
        predictions: Rung -> predictions of its first seed.
        bgr: Whether the data set gives BGR.
    """

    dataset: Any
    classes: Sequence[str]
    predictions: Mapping[str, Predictions]
    bgr: bool

    def examples(self, rung: str) -> list[dict]:
        """Pick images of as many classes as there is room for.

        Classes are the true ones, each once; where no image has a label, those that the rung
        predicts, in turn.

        Returns:
            Dicts of ``image``, ``truth`` (None without a label), ``predicted``: rung -> class, and
            ``confidence``: rung -> percent.
        """
        found = self.predictions.get(rung)
        if found is None:
            return []
        if found.labelled:
            labels, first = np.unique(found.truths(), return_index=True)
            chosen = first[labels >= 0]
        else:
            chosen = _in_turn(found.predicted)
        names = [name for name in dict.fromkeys([BASELINE, rung]) if name in self.predictions]
        return self._samples(chosen, names)

    def changed(self, rung: str) -> list[dict]:
        """Pick images whose prediction a rung changed against the source model.

        Returns:
            Groups of ``title``, ``count`` and ``samples``, as :meth:`examples` gives them; none for
            the source model itself.
        """
        before, after = self.predictions.get(BASELINE), self.predictions.get(rung)
        if rung == BASELINE or before is None or after is None or len(before) != len(after):
            return []
        truth = after.truths()
        was, now = np.array(before.predicted), np.array(after.predicted)
        groups = {f'Another class than {BASELINE} predicts': was != now}
        if after.labelled:
            groups = {
                'Wrong before, right now': (was != truth) & (now == truth),
                'Right before, wrong now': (was == truth) & (now != truth),
            }
        return [
            dict(
                title=title,
                count=int(which.sum()),
                samples=self._samples(np.flatnonzero(which), [BASELINE, rung]),
            )
            for title, which in groups.items()
        ]

    def _samples(self, indices: Iterable[int], rungs: Sequence[str]) -> list[dict]:
        found = {rung: self.predictions[rung] for rung in rungs}
        return [self._sample(int(index), found) for index in list(indices)[:NUM_SAMPLES]]

    def _sample(self, index: int, found: Mapping[str, Predictions]) -> dict:
        pixels = np.asarray(self.dataset[index]['inputs'])
        pixels = pixels[::-1] if self.bgr else pixels
        truth = next(iter(found.values())).truth[index]
        return dict(
            image=thumbnail(np.ascontiguousarray(pixels.transpose(1, 2, 0))),
            truth=None if truth is None else self.classes[truth],
            predicted={rung: self.classes[own.predicted[index]] for rung, own in found.items()},
            confidence={rung: f'{100 * own.confidence[index]:.0f}%' for rung, own in found.items()},
        )


def _in_turn(labels: Sequence[int]) -> list[int]:
    """Sort the indices of labels: the first of each label, then the second of each, and so on.

    >>> _in_turn([5, 5, 5, 3])
    [3, 0, 1, 2]
    """
    counts: dict[int, int] = {}
    rounds = []
    for label in labels:
        rounds.append(counts.setdefault(label, 0))
        counts[label] += 1
    return sorted(range(len(labels)), key=lambda index: (rounds[index], labels[index]))


def _overview(results: LadderResults) -> dict | None:
    """Plot the target against source accuracy for every rung.

    On the target that is accuracy on test images; where they have no labels, the label-free score.

    Returns:
        ``image``, the ``target``'s axis in words, and ``values``: rung -> what it reaches in words.
        None where nothing is known of the target or of the source.
    """
    by_accuracy = has_accuracy(results, TARGET)
    label = 'target accuracy, %' if by_accuracy else 'target score, label-free'
    points, values = {}, {}
    numbered = dict(enumerate(results.rungs, 1))
    for number, rung in numbered.items():
        on, x = rung.on(TARGET), rung.on('source').accuracy
        y = on.accuracy if by_accuracy else on.label_free.get(TARGET_SCORE.split('/')[-1])
        if x is not None and y is not None:
            points[number] = (x, y)
            values[rung.name] = f'{y:.1f}% and {x:.1f}%' if by_accuracy else f'{y:.2f} and {x:.1f}%'
    if not points:
        return None
    numbers = {rung.name: number for number, rung in numbered.items() if number in points}
    advice = results.recommendation
    intervals = {
        domain: {number: rung.on(domain).accuracy_interval for number, rung in numbered.items()}
        for domain in DOMAINS
    }
    image = plots.plot_tradeoff(
        points,
        intervals['source'],
        intervals[TARGET] if by_accuracy else {},
        label,
        numbers.get(advice.rung) if advice else None,
        [numbers[name] for name in (advice.frontier if advice else ()) if name in numbers],
    )
    return dict(image=image, target=label, values=values)


def _corruptions(rung: RungResult) -> dict | None:
    """Plot what corruptions cost a rung's first seed, where they were measured.

    Returns:
        ``plots``: domain -> image, and ``words``: domain -> the mean errors. None where they
        weren't.
    """
    found = curves_of(rung.checkpoint) if Path(rung.checkpoint).is_file() else None
    if found is None:
        return None
    drawn = {
        domain: plots.plot_corruptions(one.corruptions, one.clean, domain)
        for domain, one in found.domains.items()
    }
    return dict(plots=drawn, words=dict(zip(found.domains, curves_in_words(found))))


def _layer_similarity(results: LadderResults) -> dict | None:
    """Plot how similar the rungs' layers are to the source model's, where it was measured.

    Returns:
        ``plots``: domain -> image and words; ``names`` by number; ``images`` by domain and
        ``seconds`` a rung. None where no rung was compared.
    """
    numbered = dict(enumerate(results.rungs, 1))
    rungs = {n: rung for n, rung in numbered.items() if rung.kept_layers and rung.name != BASELINE}
    if not rungs:
        return None
    first = next(iter(rungs.values())).kept_layers
    # A rung of another network has layers of its own.
    rungs = {n: r for n, r in rungs.items() if r.kept_layers.layers == first.layers}
    drawn = {}
    for domain in DOMAINS:
        cka = {number: rung.kept_layers.cka[domain] for number, rung in rungs.items()}
        last = [(rungs[n].name, row[-1]) for n, row in cka.items() if row[-1] is not None]
        words = '; '.join(f'{name} {value:.2f}' for name, value in last)
        drawn[domain] = dict(image=plots.plot_layer_similarity(cka, first.layers), words=words)
    return dict(
        plots=drawn,
        names={number: rung.name for number, rung in rungs.items()},
        images=first.images,
        seconds=np.mean([rung.kept_layers.seconds for rung in rungs.values()]),
    )
