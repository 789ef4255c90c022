"""The model card of the recommended rung, and what corruptions cost it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmengine.config import Config

from tl_plugin.analysis.card import origin_of, write_card
from tl_plugin.analysis.corruption_curves import (
    Curves,
    allow_corruptions,
    compare,
    corruptions_path,
    curves_in_words,
    curves_of,
    write_curves,
)
from tl_plugin.analysis.features import build_model
from tl_plugin.engine.layers import LayerMap
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare_test
from tl_plugin.reliability.checkpoints import checkpoint_weights
from tl_plugin.reliability.files import read_json, write_json
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.stack.options import type_name

from .recommend import BASELINE
from .records import LadderResults, RungResult
from .run_rung import RESULT_NAME
from .target_labels import build_domain_dataset, measured_domains

CARD_NAME = 'card.md'


def card_of(results: LadderResults, cfg: Config) -> str:
    """Return the card of the recommended rung's first seed, out of the records of the climb.

    Args:
        results: With a recommendation.
        cfg: The base config of the ladder, whose test data the card names.
    """
    rung = results.recommended
    weights, meta = checkpoint_weights(rung.checkpoint)
    own = load_config(rung.config)
    unused = LayerMap.training_only(build_model(own, weights=False))
    used = {name: value for name, value in weights.items() if not name.startswith(unused)}
    run = read_json(Path(rung.folders[0], RESULT_NAME)) or {}
    classes = run.get('classes') or (meta.get('dataset_meta') or {}).get('classes')
    return write_card(
        f'{_task(Path(results.config))}_{rung.name}',
        rung.checkpoint,
        dict(
            classes=list(map(str, classes or ())),
            provenance=origin_of(rung.checkpoint, meta, type_name(own.model)),
        ),
        {domain: build_domain_dataset(cfg, domain) for domain in measured_domains(cfg)},
        ['/'.join(Path(file).parts[-3:]) for file in (rung.checkpoint, rung.config)],
        weights=fingerprint(used),
    )


def _task(config: Path) -> str:
    """Return a name for what a config is about: its own, or that of its folder."""
    return config.absolute().parent.name if config.stem == 'config' else config.stem


def measure_corruptions(results: LadderResults, names: Sequence[str]) -> list[str]:
    """Test the recommended rung under corruptions, in percent of the errors of ``source_only``.

    What was measured of the same weights before is kept.

    Args:
        results: With a recommendation.
        names: Of corruptions.

    Returns:
        Notes on what could not be measured, in sentences.
    """
    baseline, chosen = results.rung(BASELINE), results.recommended
    unlabelled = [name for name, on in chosen.domains.items() if on.test_images and not on.images]
    notes = [
        f'What corruptions cost on the {name} is not measured: that is accuracy, and none of its '
        'test images has a label.'
        for name in unlabelled
    ]
    if not any(on.images for on in chosen.domains.values()):
        return notes
    found = _measured(chosen, names)
    if baseline is not None and chosen.name != BASELINE:
        found = compare(found, _measured(baseline, names), BASELINE)
        write_json(corruptions_path(chosen.checkpoint), asdict(found))
    print('\n'.join(f'{chosen.name} on {line}' for line in curves_in_words(found)))
    return notes


def _measured(rung: RungResult, names: Sequence[str]) -> Curves:
    found = curves_of(rung.checkpoint)
    if found is not None and all(
        list(one.corruptions) == list(names) for one in found.domains.values()
    ):
        return found
    print(f'Testing {rung.name} under {", ".join(names)}.', flush=True)
    cfg = load_config(rung.config)
    cfg.log_level = 'WARNING'
    prepare_test(cfg, rung.checkpoint, work_dir=Path(rung.checkpoint).with_name('corruptions'))
    allow_corruptions(cfg)
    runner = build_runner(cfg)
    runner.test()
    return write_curves(runner, rung.checkpoint, names)
