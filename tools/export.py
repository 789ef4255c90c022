"""Write a checkpoint as ONNX, torch.export, TorchScript or weights of another library."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace

from arguments import Parser, add_config_arguments

from tl_plugin.launch.mistakes import run_main

FORMATS = (
    'onnx',
    'torch_export',
    'torchscript',
    'timm',
    'torchvision',
    'safetensors',
    'mmpretrain',
)


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(
        description=__doc__,
        epilog='What is written was run on real images of both domains in a process without '
        'mmpretrain and tl_plugin, and predicts what the checkpoint does; else nothing is written. '
        '--format mmpretrain writes what may be published: a config and a checkpoint with weights '
        'and class names, and nothing on images, labels or the training.',
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='default: onnx')
    parser.add_argument('--out', help='the file or folder; by default beside the checkpoint')
    parser.add_argument(
        '--precision',
        choices=['fp32', 'fp16', 'int8'],
        default='fp32',
        help='int8 takes its ranges from target images and says what it costs on both domains',
    )
    parser.add_argument(
        '--opset', type=int, help="version of ONNX's operators, for a runtime that knows no newer"
    )
    parser.add_argument(
        '--no-preprocessing',
        action='store_true',
        help='take normalised tensors instead of uint8 images of any size',
    )
    parser.add_argument(
        '--dynamic-size', action='store_true', help='let the network take images of any size'
    )
    parser.add_argument(
        '--domain',
        choices=['source', 'target'],
        default='target',
        help='whose batch statistics to write, where the model has two (default: target)',
    )
    parser.add_argument(
        '--images',
        nargs='+',
        default=[],
        metavar='FOLDER',
        help='images of the source and of the target to check on; by default those of the test',
    )
    parser.add_argument(
        '--num-images', type=int, default=16, help='of each domain, for the check (default: 16)'
    )
    parser.add_argument(
        '--no-standalone',
        action='store_true',
        help="don't write the program that labels folders beside an ONNX file",
    )
    parser.add_argument(
        '--card',
        action='store_true',
        help='write a model card beside it, whose figures come from results.json, calibration and '
        'corruptions around the checkpoint',
    )
    args = parser.parse_args()
    if args.num_images < 1 or len(args.images) > 2:
        parser.error('--num-images must be at least 1, and --images takes one or two folders')
    return args


def main() -> None:
    """Run the tool."""
    args = parse_args()
    # Keep log lines out of what is said.
    with contextlib.redirect_stdout(sys.stderr):
        from tl_plugin.apis.export import export_model
        from tl_plugin.launch.configs import load_config

        cfg = load_config(args.config, args.strategy, args.cfg_options)
    done = export_model(
        cfg,
        args.checkpoint,
        args.out,
        args.format,
        args.precision,
        preprocessing=not args.no_preprocessing,
        dynamic_size=args.dynamic_size,
        domain=args.domain,
        images=args.images,
        num_images=args.num_images,
        standalone=not args.no_standalone,
        card=args.card,
        opset=args.opset,
    )
    print(f'Written: {", ".join(map(str, done.files))}')


if __name__ == '__main__':
    run_main(main)
