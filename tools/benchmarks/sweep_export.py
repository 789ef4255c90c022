"""Sweep the export over one small architecture of each family of timm and mmpretrain.

Each network is built with random weights, written as ONNX and as a torch.export program, and both
are run: they agree where no logit differs by more than 1e-4 of the largest. Failures are listed
with torch's reason. Results are written as they come, and a stopped sweep goes on.

    nice -n 15 python tools/benchmarks/sweep_export.py
    nice -n 15 python tools/benchmarks/sweep_export.py --only timm --minutes 20
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain, zip_longest
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TOLERANCE = 1e-4
PATIENCE = 600  # seconds for one network
FORMATS = ('onnx', 'torch_export')
#: A small architecture of each family, timm's networks for tests first.
TIMM = """
test_resnet test_convnext test_convnext2 test_convnext3 test_efficientnet test_efficientnet_evos
test_efficientnet_gn test_efficientnet_ln test_mambaout test_nfnet test_byobnet test_vit test_vit2
test_vit3 test_vit4 resnet18 resnet18d resnext50_32x4d seresnet18 resnetv2_50 resnest14d
res2net50_26w_4s regnetx_002 regnety_002 efficientnet_lite0 tf_efficientnet_lite0 efficientnet_b0
tf_efficientnetv2_b0 mnasnet_050 mobilenetv2_050 mobilenetv3_small_050
tf_mobilenetv3_small_minimal_100 mobilenetv4_conv_small_035 fbnetc_100 hardcorenas_a lcnet_050
tinynet_e ghostnet_050 rexnet_100 convnext_atto convnextv2_atto densenet121 dla34 dla46_c dpn48b
vgg11 inception_v3 xception41p hrnet_w18_small cspresnet50 cspdarknet53 selecsls42b repvgg_a0
mobileone_s0 vovnet39a eca_nfnet_l0 gernet_s botnet26t_256 halonet26t lambda_resnet26t
deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 vit_tiny_patch16_224
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 mixer_s32_224 gmlp_ti16_224 resmlp_12_224
levit_128s pvt_v2_b0 poolformer_s12 mobilevit_xxs edgenext_xx_small efficientformer_l1 fastvit_t8
xcit_nano_12_p16_224 cait_xxs24_224 coat_tiny crossvit_tiny_240 pit_ti_224
tnt_s_legacy_patch16_224 twins_pcpvt_small visformer_tiny nest_tiny sequencer2d_s davit_tiny
maxvit_rmlp_pico_rw_256 repvit_m0_9 inception_next_atto starnet_s1 shvit_s1 efficientvit_b0
efficientvit_m0 tiny_vit_5m_224 hiera_tiny_224 mambaout_femto
"""


def timm_names() -> list[str]:
    """List the sample of timm, without names that the installed version hasn't."""
    import timm

    known = set(timm.list_models())
    return [name for name in TIMM.split() if name in known]


def mmpretrain_names() -> list[str]:
    """List the config with the fewest parameters of each family of mmpretrain's classifiers."""
    import stock_models
    import yaml

    found = []
    for path in sorted(stock_models.CONFIGS.glob('*/metafile.yml')):
        models = (yaml.safe_load(path.read_text(encoding='utf-8')) or {}).get('Models') or []
        sized = sorted(
            ((m.get('Metadata') or {}).get('Parameters') or 1e12, str(m.get('Config')))
            for m in models
        )
        for _, config in sized:
            config = Path(config.removeprefix('configs/'))
            file = stock_models.CONFIGS / config
            if file.is_file() and stock_models._is_classifier(file):
                found.append(config.as_posix())
                break
    return found


NAMES = dict(timm=timm_names, mmpretrain=mmpretrain_names)


def build(library: str, name: str):
    """Build a network with random weights, and images of its size, (2, C, H, W)."""
    import torch

    torch.manual_seed(0)
    if library == 'timm':
        import timm

        model = timm.create_model(name)
        shape = model.pretrained_cfg['input_size']
    else:
        import stock_models
        from mmengine.config import Config
        from mmengine.registry import DefaultScope
        from mmpretrain.registry import MODELS

        cfg = Config.fromfile(stock_models.CONFIGS / name)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(cfg.model)
        shape = (3, _size(cfg), _size(cfg))
    return model.eval().requires_grad_(False), torch.randn(2, *shape)


def _size(cfg) -> int:
    for step in reversed(cfg.test_dataloader.dataset.pipeline):
        size = step.get('crop_size') or step.get('scale')
        if size:
            return size if isinstance(size, int) else size[0]
    return 32


def export_one(library: str, name: str) -> dict:
    """Export one network in all formats; returns what came of it."""
    import numpy as np
    import torch
    from torch import nn

    from tl_plugin.apis.export.graphs import INPUT, write_graph

    class Logits(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, image):
            logits = self.model(image) if library == 'timm' else self.model(image, mode='tensor')
            return sum(logits) if isinstance(logits, (tuple, list)) else logits

    model, images = build(library, name)
    network = Logits(model)
    expected = network(images).numpy()
    result = {'parameters': sum(p.numel() for p in model.parameters())}
    for format in FORMATS:
        began = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, {'onnx': 'a.onnx', 'torch_export': 'a.pt2'}[format])
                any_number = write_graph(network, images, False, path, format, lambda _: {})
                batches = [images] if any_number else [images[:1], images[1:]]
                if format == 'onnx':
                    import onnxruntime

                    session = onnxruntime.InferenceSession(path)
                    found = [session.run(None, {INPUT: one.numpy()})[0] for one in batches]
                else:
                    module = torch.export.load(path).module()
                    found = [module(one).numpy() for one in batches]
            apart = np.abs(np.concatenate(found) - expected).max() / max(np.abs(expected).max(), 1)
            status = 'agrees' if apart <= TOLERANCE else 'differs'
            result[format] = dict(status=status, difference=float(apart), any_number=any_number)
            if status == 'differs':
                result[format]['reason'] = f'logits differ by {apart:.1e} of the largest'
        except Exception as error:
            result[format] = dict(status='failed', reason=' '.join(str(error).split())[:300])
        result[format]['seconds'] = round(time.perf_counter() - began, 1)
    return result


def sweep(libraries: list[str], out: Path, minutes: float | None) -> dict:
    """Export what isn't in the file yet, each in a process of its own."""
    names = [[(library, name) for name in NAMES[library]()] for library in libraries]
    # In turns, so that a sweep that is stopped has seen some of each library.
    todo = [pair for pair in chain(*zip_longest(*names)) if pair]
    found = json.loads(out.read_text()) if out.is_file() else {}
    results = found.get('results', {})
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for library, name in todo:
        if name in results.get(library, {}):
            continue
        if end is not None and time.monotonic() > end:
            break
        results.setdefault(library, {})[name] = _apart(library, name)
        out.parent.mkdir(parents=True, exist_ok=True)
        content = dict(summary=summary(results), of=len(todo), **_about(), results=results)
        out.write_text(json.dumps(content, indent=1) + '\n')
        print(library, name, {f: results[library][name].get(f) for f in FORMATS}, flush=True)
    return json.loads(out.read_text())


def _apart(library: str, name: str) -> dict:
    command = [sys.executable, '-W', 'ignore', __file__, '--one', library, name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, env=_environment()
        )
    except subprocess.TimeoutExpired:
        return {key: dict(status='failed', reason=f'over {PATIENCE} s') for key in FORMATS}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{')]
    if lines:
        return json.loads(lines[-1])
    reason = (done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1][:300]
    return dict(not_built=reason)


def _environment() -> dict:
    paths = [str(FOLDER.parents[1]), os.environ.get('PYTHONPATH', '')]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}


def _about() -> dict:
    from importlib.metadata import version

    packages = ('torch', 'onnx', 'onnxscript', 'onnxruntime', 'timm')
    return dict(versions={name: version(name) for name in packages})


def summary(results: dict) -> dict:
    """Count what agrees, by library and format, of what its own library builds."""
    counts = {}
    for library, models in results.items():
        built = [model for model in models.values() if 'not_built' not in model]
        counts[library] = dict(
            built=len(built),
            not_built=len(models) - len(built),
            **{
                format: sum(model[format]['status'] == 'agrees' for model in built)
                for format in FORMATS
            },
        )
    return counts


def main() -> None:
    """Run the sweep, or one network of it."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', choices=list(NAMES), help='one library')
    parser.add_argument('--out', type=Path, default=FOLDER / 'results' / 'sweep_export.json')
    parser.add_argument('--minutes', type=float, help='begin no network after so long')
    parser.add_argument('--one', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(export_one(*args.one)))
        return
    content = sweep([args.only] if args.only else list(NAMES), args.out, args.minutes)
    print(json.dumps(content['summary'], indent=1))


if __name__ == '__main__':
    main()
