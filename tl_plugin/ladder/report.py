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
from tl_plugin.reliability.files import read_json
from tl_plugin.reporting import plots
from tl_plugin.reporting.page import render_page, thumbnail
from tl_plugin.stack.protocol import TARGET

from .progress import read_scalars
from .recommend import BASELINE, SOURCE_ACCURACY, TARGET_ACCURACY, TARGET_SCORE
from .records import DOMAINS, LadderResults, Predictions, RungResult
from .results import read_predictions
from .table import columns, has_accuracy, interval_note, notes
from .target_labels import build_domain_dataset

REPORT_NAME = 'report.html'
TEMPLATE = Path(__file__).with_name('report.html.j2')
NUM_SAMPLES = 10
#: A confusion matrix of more classes can't be read, and shows :data:`FEW_CLASSES` of them.
MOST_CLASSES, FEW_CLASSES = 100, 20

#: Rung -> the predictions of each seed: domain -> predictions.
AllPredictions = Mapping[str, Sequence[Mapping[str, Predictions]]]


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
        rungs=[_rung_plots(rung, predictions, classes, left_out) for rung in results.rungs],
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


def _rung_plots(
    rung: RungResult,
    predictions: AllPredictions,
    classes: Sequence[str],
    left_out: dict[str, str],
) -> dict:
    def shown(what: str, make: Callable, *arguments: Any) -> Any:
        return attempt(f'{what} of {rung.name}', lambda: make(*arguments), left_out)

    records = shown('curves', lambda: [read_scalars(Path(f)) for f in rung.folders]) or []
    losses = [[(r['step'], r['loss']) for r in training] for training, _ in records]
    ends = [run[-1][1] for run in losses if run]
    drawn = {
        domain: shown(f'{domain} predictions', _predicted, rung, domain, predictions, classes)
        for domain in DOMAINS
    }
    return dict(
        row=rung,
        loss=shown('loss', plots.plot_loss, losses) if ends else None,
        final_loss=f'{np.mean(ends):.3f}' if ends else None,
        validation=shown('validation', _validation, [validation for _, validation in records]),
        interpolation=shown('interpolation', _interpolation, rung),
        predicted=[found for found in drawn.values() if found],
    )


def _validation(runs: Sequence[Sequence[Mapping]]) -> bytes | None:
    """Plot validation over time: accuracy, or of a target without labels the label-free score.

    Returns:
        None where nothing was validated twice, which makes no curve.
    """
    by_accuracy = any(TARGET_ACCURACY in record for run in runs for record in run)
    source, target = (
        [[(record['step'], record[name]) for record in run if name in record] for run in runs]
        for name in (SOURCE_ACCURACY, TARGET_ACCURACY if by_accuracy else TARGET_SCORE)
    )
    if max(map(len, [*source, *target]), default=0) < 2:
        return None
    return plots.plot_validation(source, target, by_accuracy)


def _predicted(
    rung: RungResult, domain: str, predictions: AllPredictions, classes: Sequence[str]
) -> dict | None:
    """Plot what a rung predicts on a domain, and say it in words.

    It is the confusion matrix of the images with labels; where none has one, how often each class
    is predicted, beside the source model.
    """
    found = [seed[domain] for seed in predictions[rung.name] if domain in seed]
    if not found:
        return None
    if any(seed.labelled for seed in found):
        truth, predicted = _labelled(found)
        confused = _most_confused(truth, predicted, classes)
        shown, which = _hardest(truth, predicted, len(classes)), ''
        if len(shown) < len(classes):
            which = f' (the {len(shown)} of {len(classes)} classes with most mistakes)'
        counts = confusion_counts(found, shown)
        totals = np.bincount(truth, minlength=len(classes))[shown]
        image = plots.plot_confusion(counts, [classes[i] for i in shown], domain, totals)
        return dict(
            image=image,
            alt=f'Confusion matrix of {rung.name} on {domain} test images{which}: {confused}',
            caption=f'{domain.capitalize()} test images, percent of each true class{which}: '
            f'{confused}',
        )
    before = [seed[domain] for seed in predictions.get(BASELINE, ()) if domain in seed]
    models = {BASELINE: before} if before else {}
    models[rung.name] = found
    shares = {}
    for name, seeds in models.items():
        labels = np.concatenate([np.array(seed.predicted, dtype=int) for seed in seeds])
        counts = np.bincount(labels, minlength=len(classes))
        shares[name] = 100 * counts / max(len(labels), 1)
    colours = {BASELINE: '#bbbbbb', rung.name: plots.COLOURS[domain]}
    own = shares[rung.name]
    most = np.argsort(-own, kind='stable')[:3]
    words = ', '.join(f'{classes[index]} {own[index]:.0f}%' for index in most)
    return dict(
        image=plots.plot_bars(shares, classes, 'images, %', colours, max_names=20),
        alt=f'How often {rung.name} predicts each class on {domain} test images: {words}',
        caption=f'{domain.capitalize()} test images, which have no labels: how often each class is '
        f'predicted ({words})',
    )


def confusion_counts(
    predictions: Sequence[Predictions], classes: int | Sequence[int]
) -> np.ndarray:
    """Count predictions of images with a label: rows are true classes, columns predicted ones.

    Args:
        predictions: One a seed; they add up. One image at least has a label.
        classes: How many there are, or numbers of those that count.
    """
    from sklearn.metrics import confusion_matrix

    labels = range(classes) if isinstance(classes, int) else classes
    return confusion_matrix(*_labelled(predictions), labels=labels)


def _labelled(predictions: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted class of all images with a label."""
    truth = np.concatenate([found.truths() for found in predictions])
    predicted = np.concatenate([found.predicted for found in predictions])
    return truth[truth >= 0], predicted[truth >= 0]


def _hardest(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes to show: all, or where they are many, those with most mistakes."""
    if num_classes <= MOST_CLASSES:
        return np.arange(num_classes)
    wrong = np.concatenate([side[truth != predicted] for side in (truth, predicted)])
    mistakes = np.bincount(wrong, minlength=num_classes)
    return np.sort(np.argsort(-mistakes, kind='stable')[:FEW_CLASSES])


def _most_confused(
    truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str], number: int = 3
) -> str:
    wrong = truth != predicted
    pairs, times = np.unique(np.stack([truth[wrong], predicted[wrong]]), axis=1, return_counts=True)
    named = [
        f'{classes[pairs[0, at]]} taken for {classes[pairs[1, at]]} ({times[at]} times)'
        for at in np.argsort(times)[::-1][:number]
    ]
    return ', '.join(named) or 'no mistakes'


def _interpolation(rung: RungResult) -> dict | None:
    """Return the first seed's interpolation, if the rung is one."""
    folder = Path(rung.folders[0])
    found = read_json(folder / 'interpolation.json')
    if found is None:
        return None
    return dict(image=(folder / 'interpolation.png').read_bytes(), chosen=found['chosen'])
