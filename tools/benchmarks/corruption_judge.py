"""Mean corruption errors of our corruptions beside those of ImageNet-C's, on the same images.

The judge is imagecorruptions-imaug, an independent implementation of Hendrycks and Dietterich's
corruptions (ICLR 2019, arXiv 1903.12261): pip install imagecorruptions-imaug. Where both have a
corruption of a kind, their errors stand side by side; the mean errors are over all that each has.
Severities are those of either: neither is fitted to the other. Both corrupt images whose shorter
side is 224 pixels, which ImageNet-C's severities are made for.

python tools/ladder.py --source data/pacs/photo --target data/pacs/art_painting --image-size 64 \
    --backbone timm:tf_efficientnet_lite0 --checkpoint data/weights/tf_efficientnet_lite0.pth \
    --rungs source_only dann --cfg-options train_cfg.max_epochs=3
python tools/benchmarks/corruption_judge.py work_dirs/ladder/dann/seed_0 \
    --baseline work_dirs/ladder/source_only/seed_0
"""

import argparse
import hashlib
from pathlib import Path

import harness
import numpy as np

from tl_plugin.analysis.corruption_curves import (
    SEVERITIES,
    allow_corruptions,
    measure_curves,
    summarise,
)
from tl_plugin.apis.export.images import build_dataset, test_loaders
from tl_plugin.datasets.degrade_quality import CORRUPTIONS, DegradeQuality
from tl_plugin.datasets.wrappers import inner_configs, with_indices
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare_test
from tl_plugin.reporting.progress import progress

SIDE = 224
#: Ours -> the judge's of the same kind.
COUNTERPARTS = dict(
    defocus='defocus_blur',
    motion='motion_blur',
    blur='gaussian_blur',
    noise='gaussian_noise',
    dead_pixels='impulse_noise',
    jpeg='jpeg_compression',
)


class AtSide:
    """A corruption of an image that was resized to ImageNet's size before."""

    def __init__(self, corrupt):
        self.corrupt = corrupt

    def __call__(self, results):
        import cv2

        image = results['img']
        scale = SIDE / min(image.shape[:2])
        size = [round(side * scale) for side in image.shape[1::-1]]
        resized = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        results = self.corrupt(dict(results, img=resized))
        return dict(results, img_shape=results['img'].shape[:2])


class Judge:
    """The judge's corruption, a function of the image and of nothing else."""

    def __init__(self, name, severity):
        self.name, self.severity = name, severity

    def __call__(self, results):
        from imagecorruptions import corrupt

        key = '/'.join(Path(results['img_path']).parts[-2:])
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], 'big')
        before = np.random.get_state()
        np.random.seed(seed)
        image = np.ascontiguousarray(results['img'][..., ::-1])
        found = corrupt(image, corruption_name=self.name, severity=self.severity)
        np.random.set_state(before)
        return dict(results, img=np.ascontiguousarray(found[..., ::-1]))


def ours(name, severity):
    return AtSide(DegradeQuality([name], severity, seed=0))


def theirs(name, severity):
    return AtSide(Judge(name, severity))


def judged():
    """Return the names of the judge's corruptions: the 15 of ImageNet-C, and what ours match."""
    from imagecorruptions import get_corruption_names

    return list(dict.fromkeys([*get_corruption_names(), *COUNTERPARTS.values()]))


def common(measured):
    """Return which of ImageNet-C's 15 corruptions were measured, in their order."""
    from imagecorruptions import get_corruption_names

    return [name for name in get_corruption_names() if name in measured]


def runner_of(folder, images):
    """Return the runner of a ladder's run after its test, on some images of each domain."""
    checkpoint = sorted(folder.glob('epoch_*.pth'))[-1]
    cfg = load_config(folder / 'config.py')
    cfg.log_level = 'WARNING'
    prepare_test(cfg, str(checkpoint), work_dir=folder / 'judged')
    allow_corruptions(cfg)
    # Workers would be started for each of some hundred evaluations of a few images.
    domains = [cfg.test_dataloader, *cfg.test_cfg.dataloaders.values()]
    for loader in domains:
        loader.num_workers = 0
    # In the config, since a sampler that is built already would go on to draw from all images.
    for loader, whole in zip(domains, test_loaders(cfg).values()):
        count = len(build_dataset(whole))
        places = np.linspace(0, count - 1, min(count, images)).astype(int).tolist()
        (inner,) = inner_configs(loader.dataset)
        inner.update(with_indices(inner, places))
    runner = build_runner(cfg)
    runner.load_or_resume()
    return runner


def measure(folder, images, pairs):
    """Return both curves of a model: domain -> curves of ours, and of the judge's."""
    runner = runner_of(folder, images)
    own, other = list(CORRUPTIONS), judged()
    if pairs:
        own, other = list(COUNTERPARTS), list(COUNTERPARTS.values())
    with progress('Corruptions', len(own + other) * len(SEVERITIES)) as advance:
        return tuple(
            measure_curves(runner, each, advance=lambda: advance(1), corruption=make)
            for each, make in ((own, ours), (other, theirs))
        )


def error(curves, names):
    """Return the mean error under some corruptions, in percent."""
    return float(np.mean([100 - value for name in names for value in curves.corruptions[name]]))


def of(curves, names):
    return summarise(curves.clean, {name: curves.corruptions[name] for name in names})


def compare(model, baseline):
    """Return the lines of the table: errors of our corruptions, and of the judge's."""
    lines = []
    for domain, own in model[0].items():
        other = model[1][domain]
        names = common(other.corruptions)
        for name, judge in COUNTERPARTS.items():
            what = f'{domain}: {name}, {judge}'
            lines.append(
                harness.line(what, error(own, [name]), error(other, [judge]), '% wrong', 1)
            )
        both = COUNTERPARTS.items()
        means = [error(own, COUNTERPARTS), error(other, [judge for _, judge in both])]
        lines.append(harness.line(f'{domain}: mean of these {len(both)}', *means, '% wrong', 1))
        if len(names) <= len(both):
            continue
        all_of = [error(own, own.corruptions), error(other, names)]
        what = f'{domain}: all {len(own.corruptions)} of ours, all {len(names)} of ImageNet-C'
        lines.append(harness.line(what, *all_of, '% wrong', 1))
        if baseline is not None:
            mce = [
                summarise(one.clean, one.corruptions, before).mce
                for one, before in (
                    (own, baseline[0][domain]),
                    (of(other, names), of(baseline[1][domain], names)),
                )
            ]
            lines.append(harness.line(f'{domain}: mCE, in percent of the baseline', *mce, '%', 1))
    return lines


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('run', type=Path, help='folder of a run of a ladder')
    parser.add_argument('--baseline', type=Path, help='another one, for mCE')
    parser.add_argument(
        '--pairs', action='store_true', help='only the kinds that both implementations have'
    )
    parser.add_argument('--images', type=int, default=150, help='of each domain')
    harness.add_out(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    model = measure(args.run, args.images, args.pairs)
    baseline = measure(args.baseline, args.images, args.pairs) if args.baseline else None
    clean = {domain: curves.clean for domain, curves in model[0].items()}
    curves = {
        kind: {domain: one.corruptions for domain, one in found.items()}
        for kind, found in zip(('ours', 'judge'), model)
    }
    harness.write(
        dict(images=args.images, clean=clean, curves=curves, lines=compare(model, baseline)), args
    )


if __name__ == '__main__':
    main()
