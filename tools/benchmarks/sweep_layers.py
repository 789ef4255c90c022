"""Sweep LayerMap over every stock model of timm, torchvision and mmpretrain.

For each model: every parameter has exactly one depth, there are at least 3 layers and none holds
nearly everything, the head is the deepest, layers start to run in the order of their depth (seen by
module hooks), and nothing is inverted against timm's own ``group_matcher``. Models of timm and
torchvision are checked whole and as pooled backbones in a classifier. Weights live on the meta
device, so that memory doesn't matter.

    python tools/benchmarks/sweep_layers.py --only torchvision --workers 2
    python tools/benchmarks/sweep_layers.py --sample 8 --out /tmp/sample.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Iterator

import stock_models as stock
from layer_checks import problems
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import tl_plugin  # noqa: F401  registers the pooled backbones

NAMES = dict(
    timm=stock.timm_names, torchvision=stock.torchvision_names, mmpretrain=stock.mmpretrain_names
)


def variants(library: str, name: str) -> Iterator[tuple[str, nn.Module, dict]]:
    """Build what users make of a stock model, with what is known about its layers.

    Args:
        library: Where the model is from.
        name: Its name there.

    Yields:
        The kind of use, the model, and arguments for :func:`layer_checks.problems`.

    Raises:
        stock_models.NotBuilt: If the library can't build it.
    """
    if library == 'mmpretrain':
        model = stock.mmpretrain_model(name)
        yield 'config', model, dict(head=_outside_backbone(model))
        return
    if library == 'timm':
        model = stock.timm_model(name)
        yield 'whole', model, dict(head=_timm_head(model), groups=_timm_groups(model))
        model = stock.on_backbone('PooledTimmBackbone', name)
        groups = _timm_groups(model.backbone.timm_model)
        groups = {f'backbone.timm_model.{key}': depth for key, depth in groups.items()}
        yield 'backbone', model, dict(head=_outside_backbone(model), groups=groups)
    else:
        model = stock.torchvision_model(name)
        last = list(model.named_children())[-1][0]
        yield (
            'whole',
            model,
            dict(head=[n for n, _ in model.named_parameters() if n.startswith(f'{last}.')]),
        )
        model = stock.on_backbone('PooledTorchvisionBackbone', name)
        yield 'backbone', model, dict(head=_outside_backbone(model))


def _outside_backbone(model: nn.Module) -> list[str] | None:
    if not hasattr(model, 'backbone'):
        return None
    return [name for name, _ in model.named_parameters() if not name.startswith('backbone.')]


def _timm_head(model: nn.Module) -> list[str] | None:
    """Name what timm calls the classifier, by method or by config, which may know more or less."""
    found = model.get_classifier() if hasattr(model, 'get_classifier') else ()
    modules = found if isinstance(found, (tuple, list)) else [found]
    inside = {id(p) for m in modules if isinstance(m, nn.Module) for p in m.parameters()}
    names = model.pretrained_cfg.get('classifier') or ()
    heads = tuple(f'{head}.' for head in ((names,) if isinstance(names, str) else names))
    return [
        name
        for name, value in model.named_parameters()
        if id(value) in inside or name.startswith(heads)
    ] or None


def _timm_groups(model: nn.Module) -> dict[str, int]:
    from timm.models import group_parameters

    if not hasattr(model, 'group_matcher'):
        return {}
    return group_parameters(model, model.group_matcher(coarse=False), reverse=True)


def sweep_one(library: str, name: str) -> dict:
    """Check one stock model.

    Returns:
        ``status`` ('passed', 'failed' or 'not built'), ``layers`` by kind of use, ``problems`` and
        ``seconds``.
    """
    start, layers, found = time.perf_counter(), {}, []
    status = 'not built'
    try:
        for kind, model, known in variants(library, name):
            layer_map, wrong = problems(model, **known)
            layers[kind] = layer_map.num_layers
            found += [f'{kind}: {problem}' for problem in wrong]
            status = 'failed' if found else 'passed'
    except stock.NotBuilt as error:
        status, found = 'not built', [str(error)]
    except Exception as error:  # one model must not end the sweep; the error is its result
        status, found = 'failed', [*found, f'{type(error).__name__}: {error}'[:500]]
    seconds = round(time.perf_counter() - start, 2)
    return dict(status=status, layers=layers, problems=found, seconds=seconds)


def summarise(results: dict[str, dict]) -> dict:
    """Count the results of one library; what its library can't build doesn't count."""
    count = {
        status: sum(r['status'] == status for r in results.values())
        for status in ('passed', 'failed', 'not built')
    }
    built = count['passed'] + count['failed']
    return {**count, 'percent': round(100 * count['passed'] / built, 2) if built else None}


def sample(names: list[str], count: int | None) -> list[str]:
    """Take names evenly from a list, the same ones every time."""
    if not count or count >= len(names):
        return names
    return [names[i * len(names) // count] for i in range(count)]


def main() -> int:
    """Run the sweep; the exit code is 1 if a model failed."""
    args = parse_args()
    quieten()
    results = json.loads(args.out.read_text())['results'] if args.resume else {}
    console = Console()
    with get_context('forkserver').Pool(args.workers, initializer=quieten) as pool:
        for library in args.only:
            found = results.setdefault(library, {})
            names = [n for n in sample(NAMES[library](), args.sample) if n not in found]
            done = pool.imap(partial(sweep_one, library), names)
            for name, result in zip(names, track(done, library, len(names), console=console)):
                found[name] = result
                if len(found) % 20 == 0:
                    write(args.out, results)
    write(args.out, results)
    if args.brief:
        write(args.brief, results, brief=True)
    console.print(table(results))
    console.print(f'Written to {args.out}')
    return int(any(summarise(found)['failed'] for found in results.values()))


def quieten() -> None:
    """Keep thousands of build messages out of the progress bar."""
    warnings.filterwarnings('ignore')
    init_default_scope('mmpretrain')
    MMLogger.get_instance('sweep', log_level='ERROR')
    logging.disable(logging.WARNING)


def write(path: Path, results: dict[str, dict], brief: bool = False) -> None:
    """Write what is known so far; ``brief`` leaves out the models that passed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ('torch', 'torchvision', 'timm', 'mmpretrain')}
    summary = {library: summarise(found) for library, found in results.items()}
    if brief:
        results = {
            library: {
                name: result for name, result in found.items() if result['status'] != 'passed'
            }
            for library, found in results.items()
        }
    path.write_text(
        json.dumps(dict(versions=versions, summary=summary, results=results), indent=1) + '\n'
    )


def table(results: dict[str, dict]) -> Table:
    """Lay out the counts, and every failure with its reason."""
    view = Table('library', 'model', 'outcome', title='Layers of stock models')
    for library, found in results.items():
        counts = summarise(found)
        view.add_row(
            library,
            f'{len(found)} models',
            ', '.join(f'{value} {key}' for key, value in counts.items()),
        )
        for name, result in found.items():
            if result['status'] != 'passed':
                view.add_row('', name, f'{result["status"]}: {"; ".join(result["problems"][:2])}')
    return view


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--only',
        nargs='+',
        choices=list(NAMES),
        default=list(NAMES),
        help='which libraries (default: all)',
    )
    parser.add_argument(
        '--sample', type=int, metavar='N', help='check only N models of each library, evenly spread'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='keep the results that --out has from a run that was cut off',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=1,
        help='processes, of about 1 GB each (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmarks/sweep_layers.json'),
        help='where the results go, as JSON (default: %(default)s)',
    )
    parser.add_argument(
        '--brief', type=Path, help='another JSON file, with the counts and what did not pass'
    )
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
