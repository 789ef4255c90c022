"""Arguments that more than one tool has, their parser, and what every tool does first."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / 'tl_plugin' / '__init__.py').is_file():
    # A tool of a checkout uses the package beside it, whether or not one is installed.
    sys.path.insert(0, str(ROOT))

# The first import, since its error names a missing requirement.
import tl_plugin  # noqa: E402, F401, I001
from mmengine.config import DictAction  # noqa: E402
from tl_plugin.strategies import available_strategies  # noqa: E402


_NUMBER = re.compile(r'^-\d+$|^-\d*\.\d+$')
_ANY_NUMBER = {argparse.OPTIONAL: 0, argparse.ZERO_OR_MORE: 0, argparse.ONE_OR_MORE: 1}


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that finds positional arguments after options with many values.

    argparse takes all of ``--strategy adabn CONFIG CHECKPOINT`` for values of ``--strategy``, in
    ``parse_intermixed_args`` too. Here the last values are positional arguments while some are
    missing: values that the option doesn't accept (no number, no choice, no ``KEY=VALUE``, no known
    strategy), and names of config files.
    """

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Move positional arguments before all options, then parse as argparse does."""
        args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._positionals_first(args), namespace)

    def _positionals_first(self, args: list[str]) -> list[str]:
        positionals = [action for action in self._actions if not action.option_strings]
        if '--' in args:
            return args
        free, runs = self._split(args)
        missing = len(positionals) - len(free)
        # One of them may take any number of values: then all that no option accepts are its, and a
        # config is missing while none stands free.
        endless = any(p.nargs not in (None, argparse.OPTIONAL) for p in positionals)
        for action, places in reversed(runs):
            least = _ANY_NUMBER[action.nargs]
            while len(places) > least:
                value = args[places[-1]]
                if endless and _is_config(value):
                    taken = not any(_is_config(args[place]) for place in free)
                else:
                    taken = (missing > 0 or endless) and _is_positional(action, value)
                if not taken:
                    break
                free.append(places.pop())
                missing -= 1
        others = [value for place, value in enumerate(args) if place not in free]
        return [*(args[place] for place in sorted(free)), *others]

    def _split(self, args: list[str]) -> tuple[list[int], list[tuple[argparse.Action, list[int]]]]:
        """Return the indices of positional arguments, and of the values of options with many."""
        free, runs, action, wanted = [], [], None, 0
        for place, value in enumerate(args):
            if value.startswith('-') and not _NUMBER.match(value) and value != '-':
                action, wanted = self._option(value), 0
                if action is not None and '=' not in value:
                    many = action.nargs in (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE)
                    wanted = len(args) if many else {None: 1, '?': 1}.get(action.nargs, 0)
                    if action.nargs in _ANY_NUMBER:
                        runs.append((action, []))
            elif wanted:
                wanted -= 1
                if action.nargs in _ANY_NUMBER:
                    runs[-1][1].append(place)
            else:
                free.append(place)
        return free, runs

    def _option(self, value: str) -> argparse.Action | None:
        flag = value.split('=')[0]
        known = {name: action for action in self._actions for name in action.option_strings}
        alike = {id(known[name]): known[name] for name in known if name.startswith(flag)}
        return known.get(flag) or (next(iter(alike.values())) if len(alike) == 1 else None)


def _is_positional(action: argparse.Action, value: str) -> bool:
    """Return whether a value may be a positional argument: a config, or nothing for the option."""
    return _is_config(value) or not _fits(action, value)


def _fits(action: argparse.Action, value: str) -> bool:
    """Return whether an option accepts a value."""
    if getattr(action, 'accepts', None) is not None:
        return action.accepts(value)
    try:
        (action.type or str)(value)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return action.choices is None or value in action.choices


def _is_config(value: str) -> bool:
    return value.endswith('.py') or '::' in value


class _Options(DictAction):
    """Single options; one that can't be read is an error of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes KEY=VALUE, got {value!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError) as error:
            parser.error(f'{option_string} {" ".join(values)}: {error}')


def count(text: str) -> int:
    """Read a number of at least 1, as the ``type`` of an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'expected a number of at least 1, got {text}')
    return number


def seed(text: str) -> int:
    """Read the seed of a random generator, as the ``type`` of an argument."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f'expected a number from 0 to 2**32 - 1, got {text}')
    return number


def add_config_arguments(parser: Parser) -> None:
    """Add the config, its strategies and single options."""
    parser.add_argument('config', help='config file, or package::path of one in a package')
    strategy = parser.add_argument(
        '--strategy',
        nargs='+',
        default=[],
        metavar='NAME',
        help='strategies merged over the config, left to right: names of configs/strategies or '
        'paths of overlays',
    )
    options = parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='override single settings, after the strategies: lists as key="[a,b]" or key=a,b, '
        'nested ones as key="[(a,b),(c,d)]" (with the quotation marks and without white space); '
        'those of a hook by its class: custom_hooks.FreezeHook.layers=0:4',
    )
    # Values that they don't accept are positional arguments, see `Parser`.
    known = available_strategies()
    strategy.accepts = lambda value: value in known or _is_config(value)
    options.accepts = lambda value: '=' in value


def add_data_arguments(parser: Parser, required: bool, backbone: str) -> None:
    """Add what replaces a config: data of two domains, and a network.

    Args:
        parser: The parser.
        required: Whether both data sets have to be given.
        backbone: What the network is for, for the help.
    """
    parser.add_argument(
        '--source',
        required=required,
        help='the labelled images: a folder of images, an annotation file (.csv, .json, ...) or an '
        'mmpretrain config (.py)',
    )
    parser.add_argument(
        '--target', required=required, help='the field images, in one of these forms'
    )
    parser.add_argument(
        '--unlabelled',
        action='store_true',
        help='take the target as unlabelled, where its folders are called by dates, cameras or '
        'places and not by classes',
    )
    parser.add_argument(
        '--target-labels',
        help='target labels that may be trained on: a number of images of each class, or a '
        'labelled list or folder of images',
    )
    parser.add_argument(
        '--backbone',
        help='network (timm:NAME, torchvision:NAME, mmpretrain:NAME or a config) ' + backbone,
    )
    parser.add_argument('--checkpoint', help='local weights of the backbone')
    parser.add_argument(
        '--image-size', type=count, help="side of its images; by default the model's"
    )


def add_labels_argument(parser: Parser) -> None:
    """Add the table of corrected labels."""
    parser.add_argument(
        '--labels',
        metavar='TABLE',
        help='corrected labels, such as labels.csv of check_labels: those in its column label '
        'replace the ones in the data, and images without one are left out',
    )


def add_launch_arguments(parser: Parser) -> None:
    """Add the arguments of every run: its folder, its launcher, how it loads data."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    parser.add_argument(
        '--no-pin-memory', action='store_true', help="don't pin memory in dataloaders"
    )
    parser.add_argument(
        '--plain',
        action='store_true',
        help='add none of the hooks that survive faults and check data: the config as it is',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes --local-rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parse(parser: Parser) -> argparse.Namespace:
    """Parse the command line and set the environment's ``LOCAL_RANK``."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
