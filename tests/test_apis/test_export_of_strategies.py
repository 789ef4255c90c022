"""What strategies add to a model or leave in it, in an exported file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS

from tests.journeys.walk import SHAPES, write_class_folders
from tl_plugin.analysis.features import build_model
from tl_plugin.apis.export import export_model
from tl_plugin.launch.runs import build_runner

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(32, 32)),
    dict(type='PackInputs'),
]
BACKBONES = dict(
    timm=dict(type='PooledTimmBackbone', model_name='test_resnet'),
    torchvision=dict(type='PooledTorchvisionBackbone', model_name='shufflenet_v2_x0_5'),
)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    write_class_folders(folder / 'source', dict.fromkeys(SHAPES, 4), seed=0)
    write_class_folders(folder / 'target', dict.fromkeys(SHAPES, 4), seed=1, field=True)
    return folder


def config(images: Path, work_dir: Path, model: dict, **more) -> Config:
    def loader(domain: str, **dataset) -> dict:
        dataset.update(type='CustomDataset', data_root=str(images / domain), pipeline=PIPELINE)
        sampler = dict(type='DefaultSampler', shuffle=False)
        collate = dict(type='default_collate')
        return dict(
            batch_size=4, num_workers=0, sampler=sampler, collate_fn=collate, dataset=dataset
        )

    target = dict(dataset=dict(data_root=str(images / 'target')))
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['tl_plugin']),
            work_dir=str(work_dir),
            log_level='WARNING',
            model=dict(
                dict(type='AdaptationClassifier', head=dict(type='LinearClsHead', num_classes=3)),
                **model,
            ),
            data_preprocessor=dict(num_classes=3, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
            train_dataloader=loader('source'),
            test_dataloader=loader('source'),
            test_cfg=dict(type='DomainTestLoop', dataloaders=dict(target=target)),
            test_evaluator=dict(type='Accuracy'),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            **more,
        ),
        format_python_code=False,
    )


def saved(model, folder: Path, **meta) -> Path:
    path = folder / 'epoch_1.pth'
    meta = dict(dataset_meta=dict(classes=SHAPES), **meta)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@torch.no_grad()
def predicted(model, paths) -> np.ndarray:
    """What a model in memory says of files, by mmpretrain's pipeline."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose([TRANSFORMS.build(step) for step in PIPELINE])
    inputs = torch.stack([pipeline(dict(img_path=str(path)))['inputs'] for path in paths])
    batch = model.eval().data_preprocessor(dict(inputs=inputs), False)['inputs']
    return model(batch, mode='tensor').softmax(1).numpy()


@torch.no_grad()
def predicted_by(file: Path, paths) -> np.ndarray:
    """What a TorchScript file says of images, read without mmpretrain."""
    from PIL import Image

    network = torch.jit.load(file)
    pixels = [torch.from_numpy(np.array(Image.open(path).convert('RGB'))) for path in paths]
    return torch.cat([network(image[None]) for image in pixels]).numpy()


def files(images: Path) -> list[Path]:
    return sorted((images / 'target').rglob('*.png'))[::5]


def test_low_rank_adapters_are_folded_in(images, tmp_path):
    model = dict(type='LoRAClassifier', backbone=dict(type='PooledTimmBackbone'))
    model['backbone']['model_name'] = 'test_efficientnet'
    cfg = config(images, tmp_path, model)
    torch.manual_seed(0)
    adapted = build_model(cfg, weights=False)
    plain = predicted(adapted, files(images))
    for name, value in adapted.named_parameters():
        if name.endswith('.lora_b'):
            torch.nn.init.normal_(value, std=0.5)
    expected = predicted(adapted, files(images))
    assert np.abs(plain - expected).max() > 1e-3
    path = saved(adapted, tmp_path)
    done = export_model(cfg, path, tmp_path / 'a.pt', 'torchscript', num_images=2)
    np.testing.assert_allclose(predicted_by(done.files[0], files(images)), expected, atol=1e-5)


def test_a_model_that_adapts_while_it_predicts_is_written_as_it_is(images, tmp_path):
    model = dict(
        type='TestTimeClassifier', test_time=dict(method='tent'), backbone=BACKBONES['timm']
    )
    cfg = config(images, tmp_path, model)
    trained = build_model(cfg, weights=False)
    path = saved(trained, tmp_path)
    done = export_model(cfg, path, tmp_path / 'a.pt', 'torchscript', num_images=6)
    assert any('adapts while it predicts, and the file does not' in note for note in done.notes)
    expected = predicted(trained, files(images))
    np.testing.assert_allclose(predicted_by(done.files[0], files(images)), expected, atol=1e-5)


def test_statistics_that_only_a_test_would_take_are_asked_for(images, tmp_path):
    target = dict(dataset=dict(data_root=str(images / 'target')))
    hook = dict(type='AdaBNHook', target_dataloader=target)
    cfg = config(images, tmp_path, dict(backbone=BACKBONES['timm']), custom_hooks=[hook])
    path = saved(build_model(cfg, weights=False), tmp_path, cfg='model = dict()')
    with pytest.raises(ValueError, match='--strategy adabn no_training'):
        export_model(cfg, path, tmp_path / 'a.pt', 'torchscript', num_images=2)
    # As the error says, a run that does nothing else writes them.
    done = no_training(cfg, dict(type='NoTrainingLoop'), path)
    target = predicted(done.model, files(images))
    assert np.abs(target - predicted(build_model(cfg, weights=False), files(images))).max() > 1e-3
    written = export_model(cfg, done.path, tmp_path / 'a.pt', 'torchscript', num_images=2)
    np.testing.assert_allclose(predicted_by(written.files[0], files(images)), target, atol=1e-5)


def no_training(cfg: Config, loop: dict, start: Path | None = None) -> SimpleNamespace:
    """A run of a loop that trains nothing, and its checkpoint."""
    cfg = cfg.copy()
    cfg.train_cfg, cfg.load_from = loop, None if start is None else str(start)
    runner = build_runner(cfg)
    model = runner.train()
    return SimpleNamespace(model=model, path=Path(cfg.work_dir) / 'epoch_1.pth')


@pytest.fixture(scope='module')
def aligned(images, tmp_path_factory):
    """Backbone -> config and run of frozen_alignment, made where a test asks for it."""
    runs = {}

    def of(name: str):
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            cfg = config(images, folder, dict(backbone=BACKBONES[name]))
            target = dict(dataset=dict(data_root=str(images / 'target'), with_label=False))
            torch.manual_seed(0)
            loop = dict(type='FrozenAlignmentLoop', target_dataloader=target)
            runs[name] = cfg, no_training(cfg, loop)
        return runs[name]

    return of


@pytest.mark.parametrize(
    ('backbone', 'format', 'name'),
    [
        ('timm', 'onnx', 'a.onnx'),
        pytest.param('timm', 'timm', 'a', marks=pytest.mark.slow),
        pytest.param('timm', 'torch_export', 'a.pt2', marks=pytest.mark.slow),
        pytest.param('torchvision', 'torchvision', 'a.safetensors', marks=pytest.mark.slow),
    ],
)
def test_the_standardization_of_frozen_alignment_is_in_every_format(
    aligned, images, tmp_path, backbone, format, name
):
    cfg, run = aligned(backbone)
    done = export_model(cfg, run.path, tmp_path / name, format, num_images=6)
    assert done.agreement.same_class == {'source': 6, 'target': 6}
    assert max(done.agreement.pipeline_difference.values()) < 1e-4
    expected = predicted(run.model, files(images))
    assert expected.max(1).min() > 0.5  # it was fitted: chance is a third
    np.testing.assert_allclose(
        outside(format, done.files[0], files(images), run.model), expected, atol=1e-4
    )


@torch.no_grad()
def outside(format: str, file: Path, paths, model) -> np.ndarray:
    """Predict with the libraries that the file is for; their inputs come from the pipeline."""
    from PIL import Image

    if format in ('onnx', 'torch_export'):
        pixels = [np.array(Image.open(path).convert('RGB'))[None] for path in paths]
        if format == 'onnx':
            import onnxruntime

            session = onnxruntime.InferenceSession(file)
            return np.concatenate([session.run(None, dict(image=one))[0] for one in pixels])
        network = torch.export.load(file).module()
        return torch.cat([network(torch.from_numpy(one)) for one in pixels]).numpy()
    if format == 'timm':
        import timm

        network = timm.create_model(f'local-dir:{file}', pretrained=True)
    else:
        from safetensors.torch import load_file
        from torchvision import models

        network = models.get_model('shufflenet_v2_x0_5', num_classes=3)
        network.load_state_dict(load_file(file))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose([TRANSFORMS.build(step) for step in PIPELINE])
    inputs = torch.stack([pipeline(dict(img_path=str(path)))['inputs'] for path in paths])
    batch = model.data_preprocessor(dict(inputs=inputs), False)['inputs']
    return network.eval()(batch).softmax(1).numpy()
