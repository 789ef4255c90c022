"""Find labels that look wrong, and write a table to correct them in."""

from __future__ import annotations

import sys
from pathlib import Path

from arguments import Parser, count, seed

from tl_plugin.launch.mistakes import run_main
from tl_plugin.reliability.files import check_folder


def parse_args():
    """Read the command line."""
    parser = Parser(
        description=__doc__,
        epilog='Writes labels.csv (correct the column label: another class, or nothing to leave an '
        'image out; then give it to --labels of train, ladder or diagnose), labels.json and '
        'labels.html. No label is changed.',
    )
    parser.add_argument(
        'data', help='folder of class folders, annotation file (.csv, .json) or mmpretrain config'
    )
    parser.add_argument(
        'config', nargs='?', help='config of a trained model, such as the source model'
    )
    parser.add_argument('model', nargs='?', metavar='checkpoint', help='its checkpoint')
    parser.add_argument(
        '--backbone',
        help='network (timm:NAME, torchvision:NAME, mmpretrain:NAME or a config) whose features '
        'are compared, in place of a trained model',
    )
    parser.add_argument('--checkpoint', help='local weights of the backbone')
    parser.add_argument(
        '--image-size', type=count, help="side of its images; by default the model's"
    )
    parser.add_argument(
        '--beside', metavar='DATA', help='another domain, whose copies with other labels are found'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/check_labels'))
    parser.add_argument('--processes', type=count, help='that read images; by default all cores')
    parser.add_argument('--seed', type=seed, default=0)
    args = parser.parse_args()
    if (args.config is None) != (args.model is None):
        parser.error('a trained model is CONFIG and CHECKPOINT, both')
    if args.config and (args.backbone or args.checkpoint):
        parser.error('give CONFIG CHECKPOINT or --backbone, not both')
    if args.checkpoint and not args.backbone:
        parser.error('--checkpoint needs the --backbone that it belongs to')
    return args


def main() -> int:
    """Check the labels and write the report."""
    args = parse_args()
    check_folder(args.work_dir)
    from mmengine.logging import MMLogger

    from tl_plugin.analysis.label_inputs import check_domain
    from tl_plugin.analysis.label_report import print_label_report, write_label_report
    from tl_plugin.intake.any_data import read_data

    MMLogger.get_instance('check_labels', log_level='WARNING')
    sys.stdout.reconfigure(errors='backslashreplace')  # names of files may not be printable
    domain = read_data(args.data)
    report = check_domain(
        domain,
        args.work_dir,
        backbone=args.backbone,
        checkpoint=args.model or args.checkpoint,
        config=args.config,
        beside=None if args.beside is None else read_data(args.beside),
        image_size=args.image_size,
        processes=args.processes,
        seed=args.seed,
    )
    table, _, page = write_label_report(report, domain, args.work_dir)
    print_label_report(report)
    print(f'Table:        {table}\nReport:       {page}')
    return 0


if __name__ == '__main__':
    run_main(main)
