"""Shows what a config will train, layer by layer, before any training."""

import contextlib
import json
import sys

from arguments import Parser, add_config_arguments


def parse_args():
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    return parser.parse_args()


def main():
    args = parse_args()
    # What is logged on the way, such as warnings, stays out of the table and the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        from mmengine.logging import MMLogger
        from rich.console import Console

        from tl_plugin.analysis.layer_table import layer_report, layer_table
        from tl_plugin.launch.runs import load_config

        MMLogger.get_instance('show_layers', log_level='WARNING')
        report = layer_report(load_config(args.config, args.strategy, args.cfg_options))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        width = None if sys.stdout.isatty() else 200
        Console(width=width).print(layer_table(report))


if __name__ == '__main__':
    main()
