"""Mix the weights of a source model and the adapted one (WiSE-FT): a sweep, a checkpoint."""

from __future__ import annotations

import contextlib
import io
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import Parser, add_config_arguments

if TYPE_CHECKING:
    from rich.table import Table

    from tl_plugin.engine.interpolation import Choice, Interpolation, Point


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(
        description=__doc__,
        epilog='CONFIG is that of both models and validates on both domains (DomainValLoop). '
        'Nothing is chosen on test images.',
    )
    add_config_arguments(parser)
    parser.add_argument('source', help='checkpoint of the source model')
    parser.add_argument('adapted', help='checkpoint of the adapted model')
    parser.add_argument(
        '--alphas',
        nargs='+',
        type=float,
        help='weights of the adapted model; by default 0, 0.1, ... 1',
    )
    parser.add_argument(
        '--statistics',
        nargs='*',
        choices=['source', 'target'],
        help='whose training images batch norms take their statistics from, at each alpha: source '
        '(train_dataloader), target (train_cfg.target_dataloader); by default what the config has. '
        'Statistics interpolated like weights are tried beside them, without a name alone',
    )
    parser.add_argument(
        '--statistics-images', type=int, default=1000, help='of each domain (default: 1000)'
    )
    parser.add_argument(
        '--rule',
        choices=['budget', 'mean'],
        default='budget',
        help='budget: best on the target that loses at most --budget points on the source; mean: '
        'best mean of both',
    )
    parser.add_argument(
        '--budget', type=float, default=1.0, help='points of source accuracy (default: 1)'
    )
    parser.add_argument('--metric', default='accuracy/top1', help='what counts, on both domains')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='where checkpoint, curve and JSON go; by default '
        'interpolation/ beside the adapted checkpoint',
    )
    args = parser.parse_args()
    args.alphas = args.alphas or [step / 10 for step in range(11)]
    if not all(0 <= alpha <= 1 for alpha in args.alphas):
        parser.error(f'--alphas are parts of the way in [0, 1], got {args.alphas}')
    if args.budget < 0 or args.statistics_images < 2:
        parser.error('--budget must be at least 0 and --statistics-images at least 2')
    return args


def main() -> None:
    """Run the tool."""
    args = parse_args()
    # Keep log lines out of the table.
    with contextlib.redirect_stdout(sys.stderr):
        from rich.console import Console

        from tl_plugin.engine.interpolation import (
            Interpolation,
            checkpoint_weights,
            choose,
            plain_model_config,
            write_interpolation,
        )
        from tl_plugin.launch.runs import build_runner, load_config, prepare
        from tl_plugin.reliability.files import write_whole
        from tl_plugin.reporting.progress import progress

        folder = args.work_dir or Path(args.adapted).parent / 'interpolation'
        (source, _), (adapted, meta) = (
            checkpoint_weights(path) for path in (args.source, args.adapted)
        )
        cfg = plain_model_config(load_config(args.config, args.strategy, args.cfg_options))
        cfg.log_level = 'WARNING'
        interpolation = Interpolation(
            build_runner(prepare(cfg, work_dir=folder)),
            source,
            adapted,
            args.statistics,
            args.statistics_images,
            args.metric,
        )
        points = []
        with progress('Evaluating', len(args.alphas) + 2) as advance:
            for point in interpolation.sweep(args.alphas):
                points.append(point)
                advance(1)
        choice = choose(points, args.rule, args.budget, interpolation.target_metric)

        about = dict(
            source=str(args.source),
            adapted=str(args.adapted),
            config=str(args.config),
            metric=args.metric,
            target_metric=interpolation.target_metric,
            rule=args.rule,
            budget=args.budget,
            statistics=interpolation.statistics,
            statistics_images=args.statistics_images,
        )
        checkpoint = folder / 'interpolated.pth'
        write_whole(checkpoint, _checkpoint(interpolation, choice.point, meta, about))
        write_interpolation(folder, points, choice, **about)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(points, choice, interpolation.target_metric))
    console.print(f'Chosen: alpha {choice.point.alpha:g}, {choice.why}.', highlight=False)
    console.print(f'Written: {checkpoint}, interpolation.json, interpolation.png', soft_wrap=True)


def _checkpoint(interpolation: Interpolation, point: Point, meta: dict, about: dict) -> bytes:
    import torch

    about = {**about, 'alpha': point.alpha, 'batch_statistics': point.statistics}
    buffer = io.BytesIO()
    content = {'meta': {**meta, 'interpolation': about}, 'state_dict': interpolation.weights(point)}
    torch.save(content, buffer)
    return buffer.getvalue()


def _table(points: list[Point], choice: Choice, target_metric: str) -> Table:
    from tl_plugin.engine.interpolation import LABEL_FREE
    from tl_plugin.reporting.tables import make_table

    before = points[0]  # the source model as it is
    rows = [
        (
            f'{point.alpha:.2f}',
            point.statistics,
            f'{point.source:.2f}',
            f'{point.source - before.source:+.2f}',
            f'{point.target:.2f}',
            f'{point.target - before.target:+.2f}',
            'chosen' if point == choice.point else '',
        )
        for point in sorted(points, key=lambda point: point.alpha)
    ]
    target = 'target score' if target_metric == LABEL_FREE else 'target %'
    columns = ('alpha', 'batch statistics', 'source %', 'change', target, 'change ', '')
    return make_table('Between the source model (0) and the adapted one (1)', columns, rows)


if __name__ == '__main__':
    main()
