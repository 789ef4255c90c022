"""Sweep the export over one small architecture of each family of timm and mmpretrain.

Each network is built with random weights, written as ONNX and as a torch.export program, and both
are run: they agree where no logit differs by more than 1e-4 of the largest. Failures are listed
with torch's reason. Results are written as they come, and a stopped sweep goes on. Families of
mmpretrain that differ in how they train alone share a network, which is tried once.

    nice -n 15 python tools/benchmarks/sweep_export.py
    nice -n 15 python tools/benchmarks/sweep_export.py --only timm --minutes 20
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from itertools import chain, zip_longest
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TOLERANCE = 1e-4
PATIENCE = 900  # seconds of CPU time for one network, however busy the machine is
FORMATS = ('onnx', 'torch_export')
#: What of a config doesn't change the network that predicts.
TRAINING = ('init_cfg', 'frozen_stages', 'drop_path_rate', 'drop_rate', 'loss', 'topk', 'cal_acc')
#: A small architecture out of each of 60 of timm's modules.
TIMM = """
test_resnet test_convnext efficientnet_lite0 test_mambaout test_nfnet test_byobnet test_vit
resnetv2_50 resnest14d res2net50_26w_4s regnety_002 mobilenetv3_small_050 hardcorenas_a
ghostnet_050 rexnet_100 densenet121 dla46_c dpn48b vgg11 inception_v3 xception41p hrnet_w18_small
cspresnet50 selecsls42b vovnet39a halonet26t deit_tiny_distilled_patch16_224
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 gmlp_ti16_224 levit_128s pvt_v2_b0 poolformer_s12
mobilevit_xxs edgenext_xx_small efficientformer_l1 fastvit_t8 xcit_nano_12_p16_224
cait_xxs24_224 coat_tiny crossvit_tiny_240 pit_ti_224 tnt_s_legacy_patch16_224 twins_pcpvt_small
visformer_tiny nest_tiny sequencer2d_s davit_tiny maxvit_rmlp_pico_rw_256 repvit_m0_9
inception_next_atto starnet_s1 shvit_s1 efficientvit_b0 efficientvit_m0 tiny_vit_5m_224
hiera_tiny_224 eva02_tiny_patch14_224 focalnet_tiny_srf mvitv2_tiny
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

    found = {}
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
                found.setdefault(_network(file), config.as_posix())
                break
    return list(found.values())


def _network(file: Path) -> str:
    """Return what makes two configs the same network, whatever it learns from."""
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(file)
        size = _size(cfg)
    except Exception:
        return str(file)
    model = cfg.model.to_dict()
    parts = {key: model.get(key) for key in ('backbone', 'neck', 'head', 'model_name')}
    for part in parts.values():
        for training in TRAINING if isinstance(part, dict) else ():
            part.pop(training, None)
    return json.dumps([parts, size], sort_keys=True, default=str)


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
    if not cfg.get('test_dataloader'):  # of a backbone alone
        return cfg.model.backbone.get('img_size', 224)
    for step in reversed(cfg.test_dataloader.dataset.pipeline):
        size = step.get('crop_size') or step.get('scale')
        if size:
            return size if isinstance(size, int) else size[0]
    return 32


def export_one(library: str, name: str) -> dict:
    """Export one network in all formats; returns what came of it."""
    import numpy as np
    import onnxruntime
    import torch
    from torch import nn

    from tl_plugin.apis.export.graphs import INPUT, export_program, write_program

    class Logits(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, image):
            logits = self.model(image) if library == 'timm' else self.model(image, mode='tensor')
            if not isinstance(logits, (tuple, list)):
                return logits
            # Of two heads, or the maps of a backbone alone.
            return sum(logits) if getattr(self.model, 'head', self) else logits[-1]

    model, images = build(library, name)
    network = Logits(model)
    expected = network(images).numpy()
    result = {'parameters': sum(p.numel() for p in model.parameters())}
    began = time.perf_counter()
    try:
        program, any_number = export_program(network, images, False)
    except Exception as error:
        seconds = round(time.perf_counter() - began, 1)
        failed = dict(status='failed', reason=_reason(error), seconds=seconds)
        return {**result, **dict.fromkeys(FORMATS, failed)}
    batches = [images] if any_number else [images[:1], images[1:]]
    for format in reversed(FORMATS):  # writing an ONNX file changes the program
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, {'onnx': 'a.onnx', 'torch_export': 'a.pt2'}[format])
                write_program(program, path, format, {})
                if format == 'onnx':
                    session = onnxruntime.InferenceSession(path, _one_thread(onnxruntime))
                    found = [session.run(None, {INPUT: one.numpy()})[0] for one in batches]
                else:
                    module = torch.export.load(path).module()
                    found = [module(one).numpy() for one in batches]
            apart = np.abs(np.concatenate(found) - expected).max() / max(np.abs(expected).max(), 1)
            status = 'agrees' if apart <= TOLERANCE else 'differs'
            result[format] = dict(status=status, difference=float(apart), any_number=any_number)
            if status == 'differs':
                result[format]['reason'] = (
                    f'logits differ by {apart:.1e} of the largest, and those of torch itself from '
                    f'its own in float64 by {_rounding(network, images, expected):.1e}'
                )
        except Exception as error:
            result[format] = dict(status='failed', reason=_reason(error))
        result[format]['seconds'] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()
    return result


def _rounding(network, images, expected) -> float:
    """Return how far float32 is from float64 in torch, as a share of the largest logit."""
    exact = copy.deepcopy(network).double()(images.double()).numpy()
    return float(abs(exact - expected).max() / max(abs(exact).max(), 1))


def _reason(error: BaseException) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:300]


def _one_thread(onnxruntime):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def sweep(libraries: list[str], out: Path, minutes: float | None) -> dict:
    """Export what isn't in the file yet, each in a process of its own."""
    names = [[(library, name) for name in NAMES[library]()] for library in libraries]
    # In turns, so that a sweep that is stopped has seen some of each library.
    todo = [pair for pair in chain(*zip_longest(*names)) if pair]
    found = json.loads(out.read_text()) if out.is_file() else {}
    results = {
        library: {name: v for name, v in models.items() if (library, name) in todo}
        for library, models in found.get('results', {}).items()
    }
    _import_all()
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


def _import_all() -> None:
    """Import once what each process needs: they are forks of this one."""
    import onnxruntime  # noqa: F401
    import stock_models  # noqa: F401
    import timm  # noqa: F401
    import torch

    import tl_plugin  # noqa: F401
    from tl_plugin.apis.export.graphs import write_graph

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_graph(
            torch.nn.Conv2d(3, 4, 3),
            torch.randn(2, 3, 8, 8),
            False,
            Path(folder, 'a.onnx'),
            'onnx',
            lambda _: {},
        )


def _apart(library: str, name: str) -> dict:
    context = multiprocessing.get_context('fork')
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(send, library, name))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        process.join()
        over = process.exitcode == -signal.SIGXCPU
        reason = f'over {PATIENCE} s' if over else f'the process ended with {process.exitcode}'
        return {format: dict(status='failed', reason=reason) for format in FORMATS}
    finally:
        process.kill()
        process.join()


def _send(connection, library: str, name: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 10))
    with open(os.devnull, 'w') as nothing:
        sys.stdout = sys.stderr = nothing
        try:
            connection.send(export_one(library, name))
        except Exception as error:
            connection.send(dict(not_built=_reason(error)))


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
    parser.add_argument('--one', nargs=2, metavar=('LIBRARY', 'NAME'), help='one network')
    args = parser.parse_args()
    if args.one:
        print(json.dumps(export_one(*args.one), indent=1))
        return
    content = sweep([args.only] if args.only else list(NAMES), args.out, args.minutes)
    print(json.dumps(content['summary'], indent=1))


if __name__ == '__main__':
    main()
