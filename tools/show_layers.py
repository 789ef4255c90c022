"""Show what a config will train, layer by layer, before any training."""

from __future__ import annotations

import contextlib
import json
import sys
from argparse import Namespace

from arguments import Parser, add_config_arguments

from tl_plugin.launch.mistakes import run_main


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    # Keep log lines, such as warnings, out of the table and the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        from mmengine.logging import MMLogger
        from rich.console import Console

        from tl_plugin.analysis.layer_table import layer_report, layer_table
        from tl_plugin.launch.configs import load_config

        MMLogger.get_instance('show_layers', log_level='WARNING')
        report = layer_report(load_config(args.config, args.strategy, args.cfg_options))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        width = None if sys.stdout.isatty() else 200
        Console(width=width).print(layer_table(report))


if __name__ == '__main__':
    run_main(main)
