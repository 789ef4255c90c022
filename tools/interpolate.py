"""Mix the weights of a source model and adapted ones (WiSE-FT, greedy soup) into a checkpoint."""

from __future__ import annotations

import contextlib
import io
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import Parser, add_config_arguments

from tl_plugin.launch.mistakes import run_main

if TYPE_CHECKING:
    from rich.table import Table

    from tl_plugin.engine.interpolation import Interpolation
    from tl_plugin.engine.interpolation_choice import Choice, Point


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(
        description=__doc__,
        epilog='CONFIG is that of both models and validates on both domains (DomainValLoop). '
        'Nothing is chosen on test images.',
    )
    add_config_arguments(parser)
    parser.add_argument('source', help='checkpoint of the source model')
    parser.add_argument(
        'adapted',
        nargs='+',
        help='checkpoint of the adapted model; of several that started from the source model, the '
        'mean of those that help is taken',
    )
    parser.add_argument(
        '--alphas',
        nargs='+',
        type=float,
        help='weights of the one adapted model; by default 0, 0.1, ... 1',
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
        'interpolation/ beside the first adapted checkpoint',
    )
    args = parser.parse_args()
    if args.alphas and len(args.adapted) > 1:
        parser.error(
            f'--alphas are parts of the way to one model, and {len(args.adapted)} are named'
        )
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

        from tl_plugin.engine.interpolation import Interpolation, Soup, plain_model_config
        from tl_plugin.engine.interpolation_choice import choose, write_interpolation
        from tl_plugin.launch.configs import load_config
        from tl_plugin.launch.runs import build_runner, prepare
        from tl_plugin.reliability.checkpoints import checkpoint_weights
        from tl_plugin.reliability.files import write_whole
        from tl_plugin.reporting.progress import progress

        folder = args.work_dir or Path(args.adapted[0]).parent / 'interpolation'
        source, _ = checkpoint_weights(args.source)
        read = {path: checkpoint_weights(path) for path in args.adapted}
        models, meta = {path: state for path, (state, _) in read.items()}, read[args.adapted[0]][1]
        cfg = plain_model_config(load_config(args.config, args.strategy, args.cfg_options))
        cfg.log_level = 'WARNING'
        runner = build_runner(prepare(cfg, work_dir=folder))
        options = dict(
            statistics=args.statistics,
            statistics_images=args.statistics_images,
            metric=args.metric,
        )
        if len(models) == 1:
            interpolation = Interpolation(runner, source, *models.values(), **options)
            sweep, length = interpolation.sweep(args.alphas), len(args.alphas) + 2
        else:
            interpolation = Soup(runner, source, models, **options)
            sweep, length = interpolation.cook(args.rule, args.budget), 3 * len(models) + 1
        points = []
        with progress('Evaluating', length) as advance:
            for point in sweep:
                points.append(point)
                advance(1)
        choice = choose(points, args.rule, args.budget, interpolation.target_metric)

        about = dict(
            source=str(args.source),
            adapted=args.adapted[0] if len(models) == 1 else args.adapted,
            config=str(args.config),
            metric=args.metric,
            target_metric=interpolation.target_metric,
            rule=args.rule,
            budget=args.budget,
            statistics=interpolation.statistics,
            statistics_images=args.statistics_images,
        )
        checkpoint = folder / ('interpolated.pth' if len(models) == 1 else 'soup.pth')
        write_whole(checkpoint, _checkpoint(interpolation, choice.point, meta, about))
        write_interpolation(folder, points, choice, **about)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(points, choice, interpolation.target_metric))
    soup = ', '.join(choice.point.models)
    what = f'the mean of {soup}' if soup else f'alpha {choice.point.alpha:g}'
    console.print(f'Chosen: {what}, {choice.why}.', highlight=False, soft_wrap=True)
    files = 'soup.json' if soup else 'interpolation.json, interpolation.png'
    console.print(f'Written: {checkpoint}, {files}', soft_wrap=True)


def _checkpoint(interpolation: Interpolation, point: Point, meta: dict, about: dict) -> bytes:
    import torch

    about = {**about, 'alpha': point.alpha, 'batch_statistics': point.statistics}
    if point.models:
        about['models'] = list(point.models)
    buffer = io.BytesIO()
    content = {'meta': {**meta, 'interpolation': about}, 'state_dict': interpolation.weights(point)}
    torch.save(content, buffer)
    return buffer.getvalue()


def _table(points: list[Point], choice: Choice, target_metric: str) -> Table:
    from tl_plugin.engine.interpolation_choice import LABEL_FREE
    from tl_plugin.reporting.tables import make_table

    before = points[0]  # the source model as it is
    rows = [
        (
            '\n'.join(point.models) or f'{point.alpha:.2f}',
            point.statistics,
            f'{point.source:.2f}',
            f'{point.source - before.source:+.2f}',
            f'{point.target:.2f}',
            f'{point.target - before.target:+.2f}',
            'chosen' if point == choice.point else '',
        )
        for point in (points if before.models else sorted(points, key=lambda point: point.alpha))
    ]
    target = 'target score' if target_metric == LABEL_FREE else 'target %'
    first = 'mean of' if before.models else 'alpha'
    columns = (first, 'batch statistics', 'source %', 'change', target, 'change ', '')
    title = 'Between the source model (0) and the adapted one (1)'
    return make_table('Means of models' if before.models else title, columns, rows)


if __name__ == '__main__':
    run_main(main)
