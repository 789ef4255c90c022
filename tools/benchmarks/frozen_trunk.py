"""Compares a trunk frozen by FreezeHook's plan with one that runs by hand under no_grad.

By number of frozen layers: the time of a forward and a backward pass, and the bytes of activations
that autograd keeps for the backward pass. Nothing frozen is the first line. Writes JSON.

    python tools/benchmarks/frozen_trunk.py --out frozen_trunk.json
"""

import argparse
import copy

import harness
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from tl_plugin.engine.freezing.policy import FreezePolicy, FrozenModes
from tl_plugin.engine.layers import LayerMap


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--width', type=int, default=192, help='embed_dims of a 12-layer ViT')
    parser.add_argument('--heads', type=int, default=4, help='of attention')
    parser.add_argument('--size', type=int, default=64, help='of the images')
    parser.add_argument('--patch', type=int, default=8, help='size of a patch')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--steps', type=int, default=15, help='timed steps of each')
    parser.add_argument(
        '--frozen',
        type=int,
        nargs='+',
        default=[0, 4, 7, 10, 13],
        help='numbers of frozen layers, of 14',
    )
    parser.add_argument('--threads', type=int, default=1, help='of torch')
    harness.add_device(parser)
    harness.add_out(parser)
    return parser.parse_args()


def build(args):
    width = args.width
    arch = dict(
        embed_dims=width, num_layers=12, num_heads=args.heads, feedforward_channels=4 * width
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(
                    type='VisionTransformer', arch=arch, img_size=args.size, patch_size=args.patch
                ),
                head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=width),
            )
        )
    return model.to(args.device).train()


def frozen_by_plan(model, layers):
    """Freeze as FreezeHook does: no gradient for the part, and its modules in eval mode."""
    layer_map = LayerMap.from_model(model)
    part = [name for depth in range(layers) for name in layer_map.names(depth)]
    values = dict(model.named_parameters())
    for name in part:
        values[name].requires_grad_(False)
    FrozenModes(model, part, FreezePolicy()).apply()
    return lambda images: model.head(model.extract_feat(images))


def frozen_by_hand(model, layers):
    """Split the network in two, the first of them under no_grad."""
    trunk = model.backbone
    if layers == 0:
        return lambda images: model.head(model.extract_feat(images))
    held = [trunk.patch_embed, *trunk.layers[: layers - 1]]
    trunk.pos_embed.requires_grad_(False)
    trunk.cls_token.requires_grad_(False)
    for module in held:
        module.requires_grad_(False).eval()
    if layers > len(trunk.layers):
        trunk.requires_grad_(False).eval()

    def forward(images):
        with torch.no_grad():
            x = trunk.patch_embed(images)[0]
            x = torch.cat((trunk.cls_token.expand(len(x), -1, -1), x), dim=1)
            x = trunk.drop_after_pos(x + trunk.pos_embed)
            for layer in trunk.layers[: layers - 1]:
                x = layer(x)
        for layer in trunk.layers[layers - 1 :]:
            x = layer(x)
        return model.head((trunk.ln1(x)[:, 0],))

    return forward


def step(forward, images):
    def run():
        forward(images).square().mean().backward()

    return run


def activation_bytes(forward, images, model):
    """Count what autograd keeps: each tensor once, weights left out."""
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward(images).square().mean()
        total = sum(kept.values())
    del loss
    return total


def compare(args, layers, images):
    models = [build(args) for _ in range(2)]
    models[1].load_state_dict(copy.deepcopy(models[0].state_dict()))
    forwards = [frozen_by_plan(models[0], layers), frozen_by_hand(models[1], layers)]
    outputs = [forward(images) for forward in forwards]
    torch.testing.assert_close(*outputs)
    memory = [activation_bytes(f, images, model) for f, model in zip(forwards, models)]
    seconds = harness.in_turn(
        dict(zip(('ours', 'plain'), (step(f, images) for f in forwards))),
        args.steps,
        clock=harness.clock_of(args.device),
    )
    what = f'{layers} of 14 layers frozen'
    return [
        harness.line(f'{what}: forward and backward', seconds['ours'], seconds['plain']),
        harness.line(f'{what}: activations', *memory, unit='MB', scale=1e-6),
    ]


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.rand(args.batch_size, 3, args.size, args.size, device=args.device)
    lines = [line for layers in args.frozen for line in compare(args, layers, images)]
    harness.write(
        dict(width=args.width, batch_size=args.batch_size, steps=args.steps, lines=lines), args
    )


if __name__ == '__main__':
    main()
