"""Exported files against the checkpoint, run in a process of their own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn

from tests.journeys.walk import SHAPES, write_class_folders
from tl_plugin.analysis.features import build_model
from tl_plugin.apis.export import export_model
from tl_plugin.apis.export.check import DisagreementError, input_batches
from tl_plugin.apis.export.graphs import write_graph
from tl_plugin.apis.export.network import Network, load_trained
from tl_plugin.apis.export.places import FOLDER_FILES, check_place

pytest.importorskip('onnxruntime')

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=28, edge='short'),
    dict(type='CenterCrop', crop_size=24),
    dict(type='PackInputs'),
]
MODEL = dict(
    type='AdaptationClassifier',
    # Two stages of four: exporting takes long by the layer.
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        base_channels=4,
        stem_channels=4,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3),
    alignments=dict(dann=dict(type='DANNHead')),
    domain_specific_bn=True,
)


def config(folder: Path, model: dict = MODEL) -> Config:
    def loader(domain: str) -> dict:
        dataset = dict(type='CustomDataset', data_root=str(folder / domain), pipeline=PIPELINE)
        return dict(batch_size=4, num_workers=0, dataset=dataset)

    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            data_preprocessor=dict(mean=[120.0, 110, 100], std=[60.0, 61, 62], to_rgb=True),
            train_dataloader=loader('source'),
            test_dataloader=loader('source'),
            test_cfg=dict(
                type='DomainTestLoop',
                dataloaders=dict(target=dict(dataset=dict(data_root=str(folder / 'target')))),
            ),
            test_evaluator=dict(type='Accuracy'),
        )
    )


def checkpoint(cfg: Config, path: Path) -> Path:
    """Weights as a training leaves them: statistics of both domains that differ, much beside."""
    torch.manual_seed(0)
    model = build_model(cfg, weights=False)
    for name, value in model.named_buffers():
        if name.endswith(('running_mean', 'running_var')):
            value.uniform_(*((-0.3, 0.3) if name.endswith('mean') else (0.02, 0.2)))
    features = model.eval().features_of(model.extract_feat(torch.randn(16, 3, 24, 24)))
    # Probabilities that are neither all alike nor all 0 and 1.
    model.head.fc.weight.data *= 6 / (features.std(dim=0).norm() + 1e-6)
    if getattr(model, 'dsbn', None) is not None:
        model.dsbn.started.fill_(True)
    meta = dict(epoch=3, iter=9, dataset_meta=dict(classes=SHAPES), temperature=2.0)
    hooks = dict(secret=['target/000.png'])
    torch.save(dict(state_dict=model.state_dict(), meta=meta, hook_msgs=hooks, optimizer={}), path)
    return path


@pytest.fixture(scope='module')
def user(tmp_path_factory):
    folder = tmp_path_factory.mktemp('user')
    write_class_folders(folder / 'source', dict.fromkeys(SHAPES, 3), seed=0)
    write_class_folders(folder / 'target', dict.fromkeys(SHAPES, 3), seed=1, field=True)
    cfg = config(folder)
    return SimpleNamespace(folder=folder, cfg=cfg, weights=checkpoint(cfg, folder / 'epoch_3.pth'))


@pytest.fixture(scope='module')
def onnx(user):
    said = []
    done = export_model(user.cfg, user.weights, num_images=4, say=said.append)
    return SimpleNamespace(said=said, **vars(done))


def test_an_onnx_file_predicts_what_the_checkpoint_does(user, onnx):
    assert [path.name for path in onnx.files] == ['epoch_3.onnx', 'epoch_3_predict.py']
    found = onnx.agreement
    assert found.images == {'source': 4, 'target': 4} == found.same_class
    assert set(found.pixels.values()) == {0.0}
    assert max(found.pipeline_difference.values()) < 1e-5
    assert 'speed' in onnx.said[-1]
    assert not list(user.folder.glob('.*'))


def test_metadata_has_what_a_caller_needs_and_no_image(onnx):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx.files[0])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about['classes']) == list(SHAPES)
    assert json.loads(about['temperature']) == 2.0
    assert json.loads(about['normalisation'])['mean'] == [120, 110, 100]
    assert json.loads(about['provenance'])['epoch'] == 3
    assert '.png' not in json.dumps(about)
    (given,) = session.get_inputs()
    assert given.shape[3] == 3 and not any(isinstance(side, int) for side in given.shape[:3])
    assert b'dann' not in onnx.files[0].read_bytes()  # no discriminator


def test_the_program_beside_it_labels_folders(user, onnx, tmp_path):
    from PIL import Image

    for name, image in (
        ('grey.png', Image.new('L', (40, 30), 90)),
        ('alpha.png', Image.new('RGBA', (30, 40), (9, 90, 180, 0))),
        ('deep.png', Image.fromarray(np.full((30, 30), 40000, np.uint16))),
    ):
        image.save(tmp_path / name)
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    (tmp_path / 'nowhere.jpg').symlink_to(tmp_path / 'none.jpg')
    out = tmp_path / 'found.csv'
    places = [str(user.folder / 'target'), str(tmp_path)]
    command = [sys.executable, '-I', str(onnx.files[1]), *places, '--out', str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 14
    assert '12 images labelled, 2 unreadable' in done.stdout and 'broken.jpg' in done.stderr
    by_name = {Path(row['image']): row for row in rows}
    assert not by_name[tmp_path / 'broken.jpg']['prediction']
    assert by_name[tmp_path / 'broken.jpg']['fault']
    reference = expected(user, [path for path in by_name if not by_name[path]['fault']])
    for path, probabilities in reference.items():
        assert by_name[path]['prediction'] == SHAPES[int(probabilities.argmax())]
        assert float(by_name[path]['confidence']) == pytest.approx(probabilities.max(), abs=2e-6)


def expected(user, paths, domain='target'):
    """What the classifier says of files, by mmpretrain's pipeline."""
    from mmcv.transforms import Compose
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import TRANSFORMS

    model = build_model(user.cfg, weights=False).eval()
    model.load_state_dict(torch.load(user.weights)['state_dict'])
    model.set_domain(domain)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose([TRANSFORMS.build(step) for step in PIPELINE])
    found = {}
    for path in paths:
        packed = pipeline(dict(img_path=str(path)))
        images = model.data_preprocessor(dict(inputs=packed['inputs'][None]), False)['inputs']
        with torch.no_grad():
            found[path] = (model(images, mode='tensor') / 2).softmax(1)[0].numpy()
    return found


@pytest.mark.parametrize(
    'format', ['torchscript', pytest.param('torch_export', marks=pytest.mark.slow)]
)
def test_torch_formats(user, format, tmp_path):
    ending = {'torchscript': '.pt', 'torch_export': '.pt2'}[format]
    done = export_model(
        user.cfg, user.weights, tmp_path / f'a{ending}', format, num_images=3, say=lambda _: None
    )
    assert max(done.agreement.pipeline_difference.values()) < 1e-5
    assert done.agreement.same_class == {'source': 3, 'target': 3}


def resnet(user, name: str) -> tuple[Config, Path]:
    """A ResNet whose weights torchvision and timm know by the same names."""
    model = dict(
        MODEL,
        backbone=dict(type='ResNet', depth=18, base_channels=64),
        domain_specific_bn=False,
    )
    if name == 'mmpretrain':
        # A wrapper and a neck of this package, which mmpretrain has counterparts of.
        model['backbone'] = dict(type='PooledTimmBackbone', model_name='test_efficientnet')
        model['neck'] = dict(type='BottleneckNeck', out_channels=8)
    cfg = config(user.folder, model)
    return cfg, checkpoint(cfg, user.folder / f'{name}.pth')


@pytest.mark.slow
def test_torchvision_loads_the_weights_key_for_key(user, tmp_path):
    import torchvision
    from safetensors.torch import load_file

    done = export_model(
        *resnet(user, 'torchvision'), tmp_path / 'r.safetensors', 'torchvision', num_images=2
    )
    model = torchvision.models.resnet18(num_classes=3)
    model.load_state_dict(load_file(done.files[0]))
    assert max(done.agreement.pipeline_difference.values()) < 1e-5


def test_stock_mmpretrain_loads_what_is_published(user, tmp_path):
    cfg, weights = resnet(user, 'mmpretrain')
    done = export_model(cfg, weights, tmp_path / 'published', 'mmpretrain', num_images=2)
    assert max(done.agreement.pipeline_difference.values()) < 1e-5
    (folder,) = done.files
    check_place(folder, 'mmpretrain', False)  # the next export may replace it
    assert f"get_model('{folder}/config.py'" in ' '.join(done.notes)
    assert 'tl_plugin' not in (folder / 'config.py').read_text()
    content = torch.load(folder / 'model.pth', weights_only=True)
    assert set(content) == {'meta', 'state_dict'}
    assert set(content['meta']) == {'dataset_meta', 'mmpretrain_version', 'provenance'}
    assert not [name for name in content['state_dict'] if name.startswith('alignments')]
    assert b'000.png' in weights.read_bytes()  # what hooks keep in a checkpoint
    for path in folder.iterdir():
        assert b'.png' not in path.read_bytes() and str(user.folder).encode() not in (
            path.read_bytes()
        )


@pytest.mark.slow
def test_timm_loads_the_folder(user, tmp_path):
    import timm

    done = export_model(*resnet(user, 'timm'), tmp_path / 'r', 'timm', num_images=2)
    check_place(done.files[0], 'timm', False)
    model = timm.create_model(f'local-dir:{done.files[0]}', pretrained=True)
    assert model.pretrained_cfg['label_names'] == list(SHAPES) and model.fc.out_features == 3


def test_int8_says_what_it_costs_before_it_is_written(user, tmp_path):
    said = []
    target = dict(dataset=dict(data_root=str(user.folder / 'target'), with_label=False))
    cfg = user.cfg.copy()
    cfg.train_cfg = dict(type='AdaptationTrainLoop', target_dataloader=target)
    path = tmp_path / 'small.onnx'

    def say(line: str) -> None:
        assert not path.exists()
        said.append(line)

    how = dict(precision='int8', opset=19)
    done = export_model(cfg, user.weights, path, num_images=2, say=say, **how)
    by_domain = [line for line in said if line.startswith('int8, ')]
    assert len(by_domain) == 2 and all('% before, ' in line for line in by_domain)
    assert any('ranges of 9 target images without their labels' in note for note in done.notes)
    import onnx

    model = onnx.load(path)
    assert {each.domain: each.version for each in model.opset_import}[''] == 19
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count('QuantizeLinear') > 5
    assert {prop.key for prop in model.metadata_props} >= {'classes', 'input', 'provenance'}


def test_statistics_of_the_chosen_domain_are_written(user):
    path = next((user.folder / 'target').rglob('*.png'))
    from tl_plugin.apis.export.images import build_dataset, shown_images
    from tl_plugin.apis.export.images import test_loaders as loaders

    (shown, *_) = shown_images(build_dataset(loaders(user.cfg)['target']))
    found = {}
    for domain in ('source', 'target'):
        trained = load_trained(user.cfg, user.weights, domain)
        assert not [name for name in trained.weights if name.startswith(('dsbn', 'alignments'))]
        network = Network(trained.model, None, temperature=2)
        images = build_model(user.cfg, weights=False).data_preprocessor(
            dict(inputs=shown.inputs[None]), False
        )['inputs']
        found[domain] = network(images)[0].numpy()
        first = sorted((user.folder / 'target').rglob('*.png'))[0]
        np.testing.assert_allclose(found[domain], expected(user, [first], domain)[first], atol=1e-6)
    assert np.abs(found['source'] - found['target']).max() > 1e-3, path


def test_a_file_that_predicts_something_else_is_refused_and_gone(user, tmp_path, monkeypatch):
    from tl_plugin.apis.export import export as module

    def wrong(network, *arguments):
        network.model.head.fc.bias[0] += 0.1
        written = real(network, *arguments)
        network.model.head.fc.bias[0] -= 0.1
        return written

    real = module.write_graph
    monkeypatch.setattr(module, 'write_graph', wrong)
    with pytest.raises(DisagreementError, match='on images of'):
        export_model(user.cfg, user.weights, tmp_path / 'a.pt', 'torchscript', num_images=2)
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_refused(user, tmp_path):
    with pytest.raises(ValueError, match='Did you mean'):
        export_model(user.cfg, user.weights, format='onxx')
    with pytest.raises(ValueError, match='int8 is written by onnxruntime'):
        export_model(user.cfg, user.weights, format='torchscript', precision='int8')
    with pytest.raises(ValueError, match=r'\.onnx file.*give .*a\.onnx'):
        export_model(user.cfg, user.weights, tmp_path / 'a.pt')
    with pytest.raises(ValueError, match='opset is the version'):
        export_model(user.cfg, user.weights, format='timm', opset=18)
    # A folder of someone's is no place for a format that is a folder of its own.
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('years of work')
    with pytest.raises(ValueError, match=r'there with thesis\.tex: give a new one'):
        export_model(user.cfg, user.weights, tmp_path / 'mine', 'mmpretrain')
    for format, names in FOLDER_FILES.items():
        # What a hub or mmpretrain gave, under the names that an export writes.
        (tmp_path / format).mkdir()
        for name in names:
            (tmp_path / format / name).write_text('{"architecture": "resnet18"}')
        with pytest.raises(ValueError, match=f'there with {names[0]}.*which no export'):
            export_model(user.cfg, user.weights, tmp_path / format, format)
    with pytest.raises(ValueError, match=r'give .*model\.onnx'):
        export_model(user.cfg, user.weights, tmp_path / 'mine')
    (tmp_path / 'a.md').write_text('license: mit')
    with pytest.raises(ValueError, match='there is a card'):
        export_model(user.cfg, user.weights, tmp_path / 'a.onnx', card=True)
    other = config(user.folder, {**MODEL, 'neck': None})
    other.model.head = dict(type='LinearClsHead', num_classes=4)
    with pytest.raises(ValueError, match='does not fit'):
        export_model(other, user.weights)
    with pytest.raises(ValueError, match='is no folder'):
        export_model(user.cfg, user.weights, images=[str(tmp_path / 'none')])


def test_attention_over_blocks_is_written_in_its_parts(tmp_path):
    """As NesT has it: of five dimensions, and ONNX's has four."""
    import onnxruntime

    class Blocks(nn.Module):
        def forward(self, images):
            return F.scaled_dot_product_attention(images, images, images)

    given = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert write_graph(Blocks(), given, False, tmp_path / 'a.onnx', 'onnx', lambda any_number: {})
    session = onnxruntime.InferenceSession(tmp_path / 'a.onnx')
    found = session.run(None, {'image': given[:1].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), Blocks()(given[:1]))


def test_batches_hold_all_inputs_in_order():
    inputs = [np.full(shape, number) for number, shape in enumerate([(2,), (2,), (2,), (3,), (2,)])]
    for any_number, count in ((True, 4), (False, 5)):
        batches = input_batches(inputs, any_number)
        assert len(batches) == count
        assert [int(row[0]) for batch in batches for row in batch] == [0, 1, 2, 3, 4]
