"""Write a network as a graph: ONNX, torch.export, TorchScript."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from tl_plugin.stack.messages import quiet

#: Format -> ending of its files.
GRAPHS = {'onnx': '.onnx', 'torch_export': '.pt2', 'torchscript': '.pt'}
#: Name of the input and of the output.
INPUT, OUTPUT = 'image', 'probabilities'
#: Where a file keeps its metadata.
METADATA = 'metadata.json'
#: Where an ONNX node keeps the names of the modules that it belongs to.
SCOPES = 'pkg.torch.onnx.name_scopes'
_INSTALL = 'pip install "mmpretrain-tl-plugin[export]", or pip install onnx onnxscript onnxruntime'


class NotExportableError(RuntimeError):
    """A network that torch can't write as a graph; the message has torch's reason."""


def check_installed() -> None:
    """Check that what writes and runs ONNX files is installed.

    Raises:
        ImportError: If it isn't.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error}: exporting to ONNX needs it, {_INSTALL}') from error


def write_graph(
    network: nn.Module,
    example: Tensor,
    sizes: bool,
    path: Path,
    format: str,
    metadata: Callable[[bool], Mapping[str, Any]],
    opset: int | None = None,
) -> bool:
    """Write a network as a graph that takes any number of images.

    Args:
        network: Takes one tensor and returns one.
        example: Of the input, at least two images.
        sizes: Whether the graph is to take images of any size.
        path: The file.
        format: A key of :data:`GRAPHS`.
        metadata: From whether the file takes any number of images to what is written into it:
            anything that JSON can hold.
        opset: Of an ONNX file. Defaults to None, torch's own.

    Returns:
        Whether it takes any number of images; else it takes one, as the network can't otherwise.

    Raises:
        NotExportableError: With torch's reason.
    """
    if format == 'torchscript':
        _write_torchscript(network, example, path, metadata(True))
        return True
    program, any_number = export_program(network, example, sizes)
    write_program(program, path, format, metadata(any_number), opset)
    return any_number


def write_program(
    program: Any, path: Path, format: str, metadata: Mapping[str, Any], opset: int | None = None
) -> None:
    """Write a program of torch.export to a file, as 'torch_export' or as 'onnx'."""
    if format == 'torch_export':
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})
    else:
        _write_onnx(program, path, metadata, opset)


def export_program(network: nn.Module, example: Tensor, sizes: bool) -> tuple[Any, bool]:
    """Export a network with torch.export: the program, and whether it takes any number of images.

    Args:
        network: Takes one tensor and returns one.
        example: Of the input, at least two images.
        sizes: Whether the program is to take images of any size.

    Raises:
        NotExportableError: With torch's reason.
    """
    places = (1, 2) if example.dtype == torch.uint8 else (2, 3)
    free = dict.fromkeys(places, torch.export.Dim.DYNAMIC) if sizes else {}
    try:
        batched = {0: torch.export.Dim.DYNAMIC, **free}
        return _torch_export(network, example, batched), True
    except Exception as reason:
        # A network that reckons with the number of images as with a constant.
        try:
            program = _torch_export(network, example[:1], free or None)
        except Exception as error:
            raise NotExportableError(_first_lines(error)) from error
        print_log(
            'The network fixes the number of images, so that the file takes one at a time. '
            f'torch says: {_first_lines(reason)}',
            logger='current',
            level=logging.WARNING,
        )
        return program, False


def _torch_export(network: nn.Module, example: Tensor, dynamic: Any) -> Any:
    with _quietly(), torch.no_grad():
        return torch.export.export(
            network, (example,), dynamic_shapes=None if dynamic is None else (dynamic,)
        )


def _write_onnx(program: Any, path: Path, metadata: Mapping[str, Any], opset: int | None) -> None:
    try:
        written = _to_onnx(program, opset)
    except Exception as whole:
        # ONNX has attention of 4 dimensions alone: in its parts it is written with any number.
        try:
            written = _to_onnx(program.run_decompositions(), opset)
        except Exception as error:
            reasons = dict.fromkeys([_first_lines(whole), _first_lines(error)])
            raise NotExportableError('; in its parts: '.join(reasons)) from error
    got = written.model.opset_imports['']
    if opset is not None and got != opset:
        # The exporter logs that it couldn't convert, and leaves the file as it was.
        raise NotExportableError(
            f"this network can't be written with ONNX's operators of version {opset}; those of "
            f'{got} can'
        )
    for node in written.model.graph.all_nodes():
        # The exporter leaves lines of code and paths of this machine with every node.
        for key in [key for key in node.metadata_props if key != SCOPES]:
            del node.metadata_props[key]
    for key, value in metadata.items():
        written.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    written.save(str(path))


def _to_onnx(program: Any, opset: int | None) -> Any:
    with _quietly():
        return torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            verbose=False,
        )


def _write_torchscript(
    network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]
) -> None:
    try:
        with _quietly(), torch.no_grad():
            traced = torch.jit.trace(network, example, check_trace=False)
            content = {METADATA: json.dumps(metadata)}
            torch.jit.save(traced, str(path), _extra_files=content)
    except Exception as error:
        raise NotExportableError(_first_lines(error)) from error


@contextmanager
def _quietly() -> Any:
    """Keep the exporters' reports on their progress from the terminal."""
    loggers = [logging.getLogger(name) for name in ('torch.export', 'torch.onnx', 'onnxscript')]
    with warnings.catch_warnings(), quiet(loggers, logging.ERROR):
        warnings.simplefilter('ignore')
        yield


def _first_lines(error: BaseException) -> str:
    """Return the beginning of what an exporter says, without its advice to report it."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f'{type(cause).__name__}: {" ".join(lines)[:400]}'
