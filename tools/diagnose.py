"""Measure how far source and target images lie apart and why, and advise where to begin."""

from __future__ import annotations

import argparse
from pathlib import Path

from arguments import add_data_arguments, add_labels_argument, count, seed

from tl_plugin.launch.mistakes import run_main
from tl_plugin.reliability.files import check_folder


def parse_args():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Writes findings.json and report.html; with a backbone also config.py, which '
        'tools/train.py and tools/ladder.py take as it is.',
    )
    parser.add_argument(
        'config', nargs='?', help='config of both domains, in place of --source and --target'
    )
    add_data_arguments(
        parser,
        required=False,
        backbone='whose features are compared; without one, image quality alone is',
    )
    parser.add_argument(
        '--reference',
        metavar='FINDINGS',
        help='findings.json of an earlier diagnosis: compare --target, new images, with its '
        'target. Writes watch.json and watch.html; exit code 0: as before, 3: drifted, 4: act, 1 '
        'and 2: it could not be compared',
    )
    add_labels_argument(parser)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/diagnose'))
    parser.add_argument('--processes', type=count, help='that read images; by default all cores')
    parser.add_argument(
        '--max-images', type=count, default=1500, help='of each domain whose features are computed'
    )
    parser.add_argument('--seed', type=seed, default=0)
    args = parser.parse_args()
    if args.reference is not None:
        others = (args.config, args.source, args.backbone, args.target_labels, args.image_size)
        if args.target is None or any(value is not None for value in others):
            parser.error('--reference goes with --target, the new images, and takes the rest along')
        return args
    given = [args.source is not None, args.target is not None]
    if any(given) == (args.config is not None) or any(given) != all(given):
        parser.error('give --source and --target, or one config that holds both')
    if args.checkpoint and not args.backbone:
        parser.error('--checkpoint needs the --backbone that it belongs to')
    return args


def settings_of(args):
    """Return the settings of a diagnosis."""
    from tl_plugin.analysis.diagnose import Settings

    return Settings(
        folder=args.work_dir,
        backbone=args.backbone,
        checkpoint=args.checkpoint,
        image_size=args.image_size,
        processes=args.processes,
        max_images=args.max_images,
        seed=args.seed,
    )


def compare(args):
    """Compare new images with an earlier diagnosis; return the exit code."""
    from mmengine.logging import MMLogger

    from tl_plugin.analysis.watch import EXIT_CODES
    from tl_plugin.analysis.watch_report import print_watch
    from tl_plugin.analysis.watching import HTML_NAME, JSON_NAME, watch_images
    from tl_plugin.intake.any_data import read_data, without_labels

    MMLogger.get_instance('diagnose', log_level='WARNING')
    target = without_labels(read_data(args.target, every_file=True))
    found = watch_images(args.reference, target, settings_of(args))
    print_watch(found)
    if (args.work_dir / HTML_NAME).is_file():
        print(f'Report:  {args.work_dir / HTML_NAME}')
    print(f'Written: {args.work_dir / JSON_NAME}')
    return EXIT_CODES[found.verdict]


def main():
    """Diagnose, and write findings and report; or compare new images with an earlier diagnosis."""
    args = parse_args()
    check_folder(args.work_dir)
    if args.reference is not None:
        return compare(args)
    from mmengine.logging import MMLogger

    from tl_plugin.analysis.diagnose import diagnose
    from tl_plugin.analysis.report import print_findings, write_diagnosis
    from tl_plugin.intake.any_data import read_both_domains, read_data, without_labels

    MMLogger.get_instance('diagnose', log_level='WARNING')
    if args.config is not None:
        domains = read_both_domains(args.config)
    else:
        domains = {
            name: read_data(given, every_file=True)
            for name, given in (('source', args.source), ('target', args.target))
        }
    if args.unlabelled:
        domains['target'] = without_labels(domains['target'])
    few = args.target_labels
    if few is not None:
        few = int(few) if few.isdigit() else read_data(few, every_file=True)
    if args.labels is not None:
        from tl_plugin.intake.label_corrections import correct_domains

        *corrected, few = correct_domains([*domains.values(), few], args.labels, args.work_dir)
        domains = dict(zip(domains, corrected))
    found = diagnose(domains['source'], domains['target'], settings_of(args), few)
    json_path, page = write_diagnosis(found, domains, args.work_dir)
    print_findings(found)
    print(f'Report:   {page}\nFindings: {json_path}')
    return 0


if __name__ == '__main__':
    run_main(main)
