"""From findings to advice, in words for someone who doesn't train networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tl_plugin.launch.console import tool_command
from tl_plugin.stack.messages import short_list
from tl_plugin.strategies import available_strategies, describe

from .class_gap import ClassifierFindings
from .findings import Advice, Findings
from .label_report import TABLE_NAME
from .quality_gap import DEGRADED, LABELS, QualityGap, StatisticGap

#: Proxy A-distances up to which the domains count as alike, and as near.
ALIKE, NEAR = 0.4, 1.2
#: Share of the domain score that quality must explain to be the main reason.
MAINLY_QUALITY = 0.5
#: Total variation distance of class frequencies that counts as a shift.
SHIFTED = 0.2
#: Accuracy that a model may lose on the target without anyone having to act, in [0, 1].
HARMLESS = 0.02
_HEADLINES = {
    None: 'No advice: nothing could be compared.',
    'source_only': 'Begin by doing nothing: use the source model as it is, and measure it.',
    'quality_matched': 'Begin with quality_matched: train on source images that are made as poor '
    'as the target.',
    'adabn': 'Begin with adabn: let the model take its statistics from target images, without '
    'training.',
    'fine_tune': 'Begin with fine_tune: fine-tune on the few labelled target images, holding on to '
    'the source model.',
    'self_training': 'Begin with self_training: learn from the unlabelled target images, whose '
    'labels it guesses, the surest first.',
}


def advise(found: Findings, few_labels: int = 0, config: str | None = None) -> Advice:
    """Choose strategies by what was found, and say why.

    The thresholds are rules of thumb; the advice says where to begin, and the ladder measures
    whether it was right.

    Args:
        found: The findings, without advice.
        few_labels: Number of labelled target images that may be trained on.
        config: The written config, for the commands.
    """
    if found.gap is None:
        wanted, reasons = _by_quality(found.quality)
    else:
        wanted, reasons = _by_features(found, few_labels)
    known = available_strategies()
    strategies = {name: describe(name) for name in wanted if name in known}
    first = next(iter(strategies), None)
    return Advice(
        headline=_HEADLINES.get(first, f'Begin with {first}: see configs/strategies.'),
        strategies=strategies,
        reasons=tuple(reasons),
        repairs=(*_repairs(found), *_wrong_labels(found)),
        commands=() if config is None else (tool_command('ladder.py', config),),
        label_commands=() if config is None else _label_commands(found, config),
    )


def _by_quality(quality: QualityGap | None) -> tuple[list[str], list[str]]:
    """Choose without features of a network."""
    reasons = [
        'No features of a network were compared, so nothing is known of the gap but image '
        'quality: give a --backbone.'
    ]
    if quality is None:
        return [], [*reasons, 'There are too few images to compare their quality.']
    worse = worse_statistics(quality)
    return ['quality_matched', 'adabn'] if worse else ['source_only'], [*reasons, *worse]


def _by_features(found: Findings, few_labels: int) -> tuple[list[str], list[str]]:
    gap, distance = found.gap, found.gap.proxy_a_distance
    reasons = [
        f'A simple classifier tells source from target in {100 * gap.domain_accuracy.value:.0f} of '
        f'100 images (proxy A-distance {distance.value:.2f} of 2, 95% interval {distance.low:.2f} '
        f'to {distance.high:.2f}); two halves of the source give '
        f'{gap.floor["proxy_a_distance"]:.2f}.'
    ]
    drop = _accuracy_drop(found.classifier, reasons)
    reasons += _expected_accuracy(found.classifier)
    if distance.value < ALIKE or (drop is not None and drop < HARMLESS):
        reasons.append('The gap is small or does no harm: adapting could cost more than it gains.')
        return ['source_only', 'adabn'], reasons
    wanted: list[str] = []
    if few_labels:
        reasons.append(
            f'{few_labels} labelled target images may be trained on: nothing closes a gap as '
            'surely. Fine-tuning that holds on to the source model loses least of what it knew.'
        )
        wanted += ['fine_tune', 'l2_sp']
    share = 0 if found.quality is None else found.quality.explained_by_corruptions or 0
    if share >= MAINLY_QUALITY:
        reasons.append(
            f'Poorer image quality explains {100 * share:.0f}% of what tells the domains apart: '
            'training on source images that are made as poor as the target needs no labels.'
        )
        reasons += worse_statistics(found.quality)
        wanted += ['quality_matched', 'adabn']
    else:
        reasons.append(
            f'Poorer image quality explains little of the gap ({100 * share:.0f}% of it): the '
            'images differ in what they show or how, and degrading the source will not make up '
            'for it.'
        )
    if distance.value >= NEAR or not wanted:
        wanted += _without_labels(found, reasons)
    return wanted, reasons


def _accuracy_drop(classifier: ClassifierFindings | None, reasons: list[str]) -> float | None:
    if classifier is None or classifier.target_accuracy is None:
        return None
    before, after = classifier.source_accuracy.value, classifier.target_accuracy.value
    left_out = list(classifier.left_out)
    without = f' It leaves out {short_list(left_out)}: too few images.' if left_out else ''
    reasons.append(
        f'A classifier trained on the source alone is right on {100 * before:.0f}% of source and '
        f'{100 * after:.0f}% of target images.{without}'
    )
    return before - after


def _expected_accuracy(classifier: ClassifierFindings | None) -> list[str]:
    """Describe what is expected of the target's accuracy where it isn't known."""
    expected = classifier and classifier.expected_target_accuracy
    if not expected or classifier.target_accuracy is not None:
        return []
    return [
        'Without target labels, the accuracy on the target of a classifier trained on the source '
        f'({100 * classifier.source_accuracy.value:.0f}% right there) is {expected.in_words()}.'
    ]


def _without_labels(found: Findings, reasons: list[str]) -> list[str]:
    classifier = found.classifier
    # With a large gap an estimate of the frequencies reflects the gap more than the frequencies.
    trusted = classifier is not None and (
        classifier.target_shares is not None or found.gap.proxy_a_distance.value < NEAR
    )
    if trusted and classifier.label_shift > SHIFTED:
        reasons.append(
            f'The classes are not equally frequent in both domains (they differ by '
            f'{100 * classifier.label_shift:.0f}% of the images): methods that make both domains '
            'look alike as a whole, such as DANN, would mix classes up. Self-training and MCC do '
            'not force that.'
        )
        return ['self_training', 'mcc']
    # tools/benchmarks/README.md, whole_rungs and pacs_pairs: ahead of dann on every pair.
    reasons.append(
        'Unlabelled target images can be learned from: self-training guesses their labels, the '
        'surest first, MCC makes the model decide on them, DANN makes both domains look alike to '
        'it.'
    )
    return ['self_training', 'mcc', 'dann']


def worse_statistics(quality: QualityGap) -> list[str]:
    """Describe up to three statistics in which the target is worse by a medium effect or more."""
    return [_in_words(item) for item in quality.corruptions(0.5)[:3]]


def _in_words(item: StatisticGap) -> str:
    label, about = LABELS[item.name].label, LABELS[item.name].about
    side = DEGRADED[item.name]
    # A corruption of some images moves the tail of the distribution and not the median.
    if 2 * side * (item.target - item.source) >= side * (item.target_tenth - item.source_tenth):
        text = (
            f'The target is worse in {label}: typically {item.target:.3g} against {item.source:.3g}'
        )
    else:
        text = (
            f'Some of the target is worse in {label}: its worst tenth is beyond '
            f'{item.target_tenth:.3g}, that of the source beyond {item.source_tenth:.3g}'
        )
    return f'{text} ({abs(item.effect.value):.1f} standard deviations on average). {about}'


def _repairs(found: Findings) -> list[str]:
    repairs = []
    for name, other in (('source', 'target'), ('target', 'source')):
        domain = getattr(found, name)
        if domain.unreadable:
            repairs.append(
                f'{len(domain.unreadable)} of {domain.images} files of the {name} cannot be read; '
                'training leaves them out.'
            )
        if domain.imbalance and domain.imbalance > 5:
            repairs.append(
                f'The largest class of the {name} has {domain.imbalance:.0f} times the images of '
                'the smallest.'
            )
        missing: Sequence[str] = found.missing_classes[name]
        if missing:
            repairs.append(f'The {name} has no {short_list(missing)}, which the {other} has.')
    copies = found.copies
    for count, text in (
        (copies.leaking, 'Copies lie in several splits, so that measured accuracy is too high'),
        (copies.contradicting, 'Copies have different labels'),
        (copies.across_domains, 'Copies lie in both domains'),
    ):
        if count:
            repairs.append(f'{text}: {count} group{"s" if count > 1 else ""}.')
    return repairs


def _wrong_labels(found: Findings) -> list[str]:
    """Describe the labels of a domain that look wrong, where they are many or each one counts."""
    said = []
    for name in ('source', 'target'):
        report = found.labels and getattr(found.labels, name)
        if report is None:
            continue
        doubted = len(report.flagged('wrong'))
        if report.noisy:
            value, low, high = (100 * end for end in report.rate)
            said.append(
                f'About {value:.0f}% of the labels of the {name} look wrong (95% interval '
                f'{low:.0f} to {high:.0f}%): correct them, or let the ladder drop them.'
            )
        elif report.rate is None and doubted:
            said.append(
                f'{doubted} of the {report.images} labels of the {name} look wrong to '
                f'{report.judge}, which errs on the target by itself: look at these images.'
            )
    return said


def _label_commands(found: Findings, config: str) -> tuple[str, ...]:
    """Return the commands that list wrong labels and train on corrected ones, domain by domain."""
    if found.labels is None:
        return ()
    known = found.reference.features
    network = ['--backbone', known.backbone]
    network += ['--checkpoint', known.checkpoint] if known.checkpoint else []
    network += ['--image-size', known.image_size] if known.image_size else []
    commands = []
    for name in ('source', 'target'):
        report, domain = getattr(found.labels, name), getattr(found, name)
        # The target of a config isn't data that can be named.
        if report is None or not report.noisy or (known.own_pipelines and name == 'target'):
            continue
        folder = Path(config).parent / f'labels_{name}'
        # Images without files are known by their numbers in the config that was read.
        climbed = domain.origin if known.own_pipelines else config
        commands += [
            tool_command('check_labels.py', domain.origin, *network, '--work-dir', folder),
            tool_command('ladder.py', climbed, '--labels', folder / TABLE_NAME),
        ]
    return tuple(commands)
