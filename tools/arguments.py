"""The arguments that more than one tool takes, and what every tool does first."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / 'tl_plugin' / '__init__.py').is_file():
    # A tool of a checkout uses the package beside it, installed or not.
    sys.path.insert(0, str(ROOT))

# First of all imports, because it names whatever is missing.
import tl_plugin  # noqa: E402, F401, I001
from mmengine.config import DictAction  # noqa: E402
from positionals import Parser  # noqa: E402, F401
from tl_plugin.strategies import available_strategies  # noqa: E402


def add_config_arguments(parser):
    """Adds the config, its strategies and single options."""
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
        action=DictAction,
        metavar='KEY=VALUE',
        help='override single settings, after the strategies: lists as key="[a,b]" or key=a,b, '
        'nested ones as key="[(a,b),(c,d)]" (with the quotation marks and without white space); '
        'those of a hook by its class: custom_hooks.FreezeHook.layers=0:4',
    )
    # What they can't take is a positional argument, see `Parser`.
    strategy.accepts = available_strategies().__contains__
    options.accepts = lambda value: '=' in value


def add_data_arguments(parser, required, backbone):
    """Adds what stands in for a config: data of two domains, and a network.

    ``backbone`` says what the network is for.
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
        help='target labels that may be trained on: so many of each class, or a labelled list or '
        'folder of images',
    )
    parser.add_argument(
        '--backbone',
        help='network (timm:NAME, torchvision:NAME, mmpretrain:NAME or a config) ' + backbone,
    )
    parser.add_argument('--checkpoint', help='local weights of the backbone')
    parser.add_argument('--image-size', type=int, help="side of its images; by default the model's")


def add_launch_arguments(parser):
    """Adds what every run takes: its folder, its launcher, how it loads data."""
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


def parse(parser):
    """Parses the command line and tells mmengine which process of a machine this is."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
