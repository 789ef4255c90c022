"""Run an exported file on arrays, in a process that has neither mmpretrain nor tl_plugin.

``python -I run_file.py FORMAT FILE ARRAYS.npz OUT.npz``; the arrays are batches of the input, in
order. Writes the output of each and the seconds that one image takes. It imports what the format
needs and nothing else, so that it can be run anywhere.
"""

import json
import os
import sys
import time

# Of an import that finds this None, Python says that there is no such module.
FORBIDDEN = ('tl_plugin', 'mmpretrain', 'mmengine', 'mmcv')
REPEATS = 5


def load_onnx(path):
    """Return a function from an array to an array."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get('OMP_NUM_THREADS', 0))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})[0]


def _of_torch(module):
    import torch

    def run(array):
        with torch.no_grad():
            return module(torch.from_numpy(array)).numpy()

    return run


def load_torch_export(path):
    """Return a function from an array to an array."""
    import torch

    return _of_torch(torch.export.load(path).module())


def load_torchscript(path):
    """Return a function from an array to an array."""
    import torch

    return _of_torch(torch.jit.load(path))


def load_timm(path):
    """Return a function from normalised images to probabilities."""
    import timm

    model = timm.create_model(f'local-dir:{path}', pretrained=True).eval()
    return _of_torch(lambda images: model(images).softmax(dim=1))


def load_torchvision(path):
    """Return a function from normalised images to probabilities."""
    import torchvision
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, 'pt') as file:
        about = file.metadata()
    options = json.loads(about['options'])
    model = torchvision.models.get_model(about['architecture'], weights=None, **options)
    model.load_state_dict(load_file(path))
    model.eval()
    return _of_torch(lambda images: model(images).softmax(dim=1))


def load_mmpretrain(path):
    """Return a function from normalised images to probabilities, of a folder of a config."""
    from mmpretrain import get_model

    model = get_model(
        os.path.join(path, 'config.py'), pretrained=os.path.join(path, 'model.pth'), device='cpu'
    ).eval()

    def run(images):
        return __import__('torch').stack(
            [sample.pred_score for sample in model(images, mode='predict')]
        )

    return _of_torch(run)


def main():
    """Run the file named on the command line."""
    format, path, arrays, out = sys.argv[1:]
    allowed = ('mmpretrain', 'mmengine', 'mmcv') if format == 'mmpretrain' else ()
    for name in FORBIDDEN:
        if name not in allowed:
            sys.modules[name] = None
    if format == 'onnx':
        sys.modules['torch'] = None
    import numpy

    run = globals()[f'load_{format}'](path)
    with numpy.load(arrays) as found:
        batches = [found[f'batch_{number}'] for number in range(len(found.files))]
    outputs = {f'batch_{number}': run(batch) for number, batch in enumerate(batches)}
    one, seconds = batches[0][:1], []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        run(one)
        seconds.append(time.perf_counter() - began)
    numpy.savez(out, seconds=numpy.median(seconds[1:]), **outputs)


if __name__ == '__main__':
    main()
