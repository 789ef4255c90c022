r"""Does watching see drift, and only drift? Resamples of one domain, and each corruption.

    python tools/benchmarks/drift.py --source data/pacs/photo --target data/pacs/art_painting \
        --backbone timm:tf_efficientnet_lite0 --checkpoint data/weights/tf_efficientnet_lite0.pth \
        --image-size 96 --out work_dirs/drift.json

Half of the target's images are the reference of a diagnosis, the others are new images: drawn 100
times, they have to raise no alarm; degraded by one corruption at one severity, they have to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import harness
import numpy as np


def parse_args():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--source', required=True)
    parser.add_argument('--target', required=True)
    parser.add_argument('--backbone', required=True)
    parser.add_argument('--checkpoint')
    parser.add_argument('--image-size', type=int)
    parser.add_argument('--images', type=int, default=200, help='new images of a look')
    parser.add_argument('--looks', type=int, default=100)
    parser.add_argument('--severities', nargs='+', type=int, default=[1, 2, 3])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/drift'))
    parser.add_argument('--seed', type=int, default=0)
    harness.add_out(parser)
    return parser.parse_args()


def divide(items, rng):
    """Divide images into a reference and new ones."""
    order = rng.permutation(len(items))
    half = len(items) // 2
    return [items[i] for i in order[:half]], [items[i] for i in order[half:]]


def main():
    """Measure alarms on resamples and on corruptions."""
    args = parse_args()
    from mmengine.config import Config

    from tl_plugin.analysis.diagnose import Settings, diagnose, scan_domain
    from tl_plugin.analysis.features import build_model
    from tl_plugin.analysis.image_features import compute_features, probe_features
    from tl_plugin.analysis.reference import DriftReference
    from tl_plugin.analysis.watch import AS_BEFORE, watch
    from tl_plugin.datasets.degrade_quality import CORRUPTIONS, DegradeQuality
    from tl_plugin.intake.any_data import read_data
    from tl_plugin.intake.backbone_choice import choose_model
    from tl_plugin.intake.config_writer import pipelines
    from tl_plugin.intake.degraded_copy import write_degraded

    rng = np.random.default_rng(args.seed)
    target = read_data(args.target)
    known, new = divide(target.items, rng)
    settings = Settings(
        args.work_dir, args.backbone, args.checkpoint, args.image_size, max_images=1000
    )
    found = diagnose(read_data(args.source), target.with_items(known), settings)
    reference = DriftReference.from_json(json.loads(json.dumps(found.to_json()['reference'])))
    choice = choose_model(args.backbone, max(len(reference.features.classes), 2), args.checkpoint)
    model = build_model(
        Config(dict(model=choice.model, data_preprocessor=choice.data_preprocessor))
    )
    _, pipeline = pipelines(choice, args.image_size)
    probe = reference.features.project(probe_features(model, pipeline, args.work_dir)[None])[0]
    if not np.allclose(probe, reference.features.probe, atol=0.05):
        raise SystemExit('the network gives other features than in the diagnosis')

    def measured(images):
        """Return quality and features of images."""
        records = scan_domain('images', images, settings).records
        listed = args.work_dir / 'lists' / 'drift.txt'
        features, items = compute_features(
            model, images, images.items, (), pipeline, listed, 'features'
        )
        places = {item.name: place for place, item in enumerate(items)}
        order = [places[item.name] for item in images.items]
        return [record.quality for record in records], features[order]

    def look(quality, features, chosen, seed):
        rows = [quality[i] for i in chosen]
        return watch(reference, len(rows), rows, features[chosen], seed)

    quality, features = measured(target.with_items(new))
    alarms = []
    for number in range(args.looks):
        chosen = rng.choice(len(new), min(args.images, len(new)), replace=False)
        seen = look(quality, features, chosen, number)
        if seen.verdict != AS_BEFORE:
            alarms.append([number, seen.verdict, [d.name for d in seen.drifts if d.drifted]])
    results = dict(new=len(new), images=args.images, looks=args.looks, false_alarms=alarms)
    print(f'{len(alarms)} alarms in {args.looks} looks at images of the same domain', flush=True)
    results['corruptions'] = {}
    few = [new[i] for i in rng.choice(len(new), min(args.images, len(new)), replace=False)]
    for name in CORRUPTIONS:
        for severity in args.severities:
            folder = args.work_dir / 'degraded' / f'{name}_{severity}'
            degrade = DegradeQuality(corruptions=[name], severity=severity, seed=args.seed)
            if not folder.is_dir():
                write_degraded(few, folder, degrade)
            quality, features = measured(read_data(folder))
            seen = look(quality, features, np.arange(len(quality)), 0)
            drifted = [f'{d.kind}: {d.name}' for d in seen.drifts if d.drifted]
            results['corruptions'][f'{name} {severity}'] = [seen.verdict, drifted[:3]]
            print(f'{name} {severity}: {seen.verdict}, {", ".join(drifted[:3])}', flush=True)
    harness.write(results, args)


if __name__ == '__main__':
    main()
