"""What the run remembers of the model that it began with: when, where, and that it comes back."""

from pathlib import Path

import mmpretrain
import pytest
import torch
import torch.distributed as dist

from tests.distributed import run_distributed
from tests.programs import run_program
from tests.tiny_runs import CPU_MODEL_WRAPPER
from tests.toy import target, toy_config, train
from tl_plugin.reliability.checkpoints import read_whole

KEEPING = ('l2_sp', 'delta', 'lwf', 'bss')
QUIET = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """The checkpoint of a trained source model."""
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, options=QUIET, max_epochs=1))
    return folder / 'epoch_1.pth'


def _weights(path):
    return read_whole(path)


def _run(folder, source, strategies=KEEPING, **options):
    return train(toy_config(folder, strategies, {**QUIET, 'load_from': str(source), **options}))


def test_it_is_the_model_that_load_from_gave(source, tmp_path):
    runner = _run(tmp_path, source)
    begun = _weights(source)['state_dict']
    found = runner.model.regularizers.source_state()
    assert all(torch.equal(value, begun[name]) for name, value in found.items())
    assert not torch.equal(runner.model.head.fc.weight, begun['head.fc.weight'])
    logged = runner.message_hub.log_scalars
    total = sum(logged[f'train/loss_{name}'].current() for name in ('cls', *KEEPING))
    assert logged['train/loss'].current() == pytest.approx(total, rel=1e-5)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(source, tmp_path):
    options = {'default_hooks.checkpoint.max_keep_ckpts': 5}
    whole = _run(tmp_path / 'whole', source, **options)
    first = tmp_path / 'whole' / 'epoch_1.pth'
    resumed = _run(tmp_path / 'resumed', first, resume=True)
    assert resumed.epoch == whole.epoch == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    begun = _weights(source)['state_dict']
    for name, value in resumed.model.regularizers.source_state().items():
        assert torch.equal(value, begun[name])


def test_load_from_a_checkpoint_that_remembers_begins_anew(source, tmp_path):
    _run(tmp_path / 'first', source)
    adapted = tmp_path / 'first' / 'epoch_2.pth'
    runner = _run(tmp_path / 'second', adapted)
    begun = _weights(adapted)['state_dict']
    for name, value in runner.model.regularizers.source_state().items():
        assert torch.equal(value, begun[name])


def test_a_checkpoint_that_remembers_nothing_cannot_be_resumed_from(source, tmp_path):
    with pytest.raises(ValueError, match='remembers no source model'):
        _run(tmp_path, source, resume=True)


def test_a_published_model_carries_none_of_it(source, tmp_path):
    _run(tmp_path, source, **{'default_hooks.checkpoint.type': 'AtomicCheckpointHook'})
    adapted = tmp_path / 'epoch_2.pth'
    assert 'source_model' in _weights(adapted)['hook_msgs']
    plain = set(_weights(source)['state_dict'])
    assert set(_weights(adapted)['state_dict']) == plain
    tool = Path(mmpretrain.__file__).parent / '.mim/tools/model_converters/publish_model.py'
    code, said = run_program(tool, adapted, tmp_path / 'out.pth')
    assert code == 0, said[-2000:]
    published = _weights(next(tmp_path.glob('out*.pth')))
    assert set(published) <= {'meta', 'state_dict'} and set(published['state_dict']) == plain


def test_frozen_layers_stay_and_ema_runs_beside_it(source, tmp_path):
    ema = dict(type='EMAHook', momentum=0.3)
    options = {**QUIET, 'load_from': str(source)}
    cfg = toy_config(tmp_path, ('feature_extraction', *KEEPING), options)
    cfg.custom_hooks = [ema, *cfg.custom_hooks]
    model = train(cfg).model
    begun = _weights(source)['state_dict']
    assert all(
        torch.equal(value, begun[name])
        for name, value in model.state_dict().items()
        if name.startswith('backbone.')
    )
    assert not torch.equal(model.head.fc.weight, begun['head.fc.weight'])
    averaged = _weights(tmp_path / 'epoch_2.pth')['state_dict']
    assert all(
        torch.equal(averaged[name], begun[name])
        for name in averaged
        if name.startswith('backbone.')
    )


def test_activation_checkpointing_leaves_the_weights_as_they_are(source, tmp_path):
    options = {'default_hooks.checkpoint': None, 'model.regularizers.delta.layers': '3:-1'}
    plain, recomputed = (
        _run(tmp_path / str(part), source, activation_checkpointing=part, **options).model
        for part in ([], ['backbone.layer1'])
    )
    for name, value in plain.named_parameters():
        torch.testing.assert_close(value, recomputed.get_parameter(name), msg=name)


def test_a_layer_that_loses_its_gradient_to_checkpointing_is_told(source, tmp_path):
    options = {'model.regularizers.delta.layers': [1, 5]}
    with pytest.raises(ValueError, match=r'depth 1 \(backbone.layer1.0\) lies within activation'):
        _run(tmp_path, source, ('delta',), activation_checkpointing=['backbone.layer1'], **options)


def test_other_models_are_told(tmp_path):
    cfg = toy_config(tmp_path, options=QUIET)
    cfg.custom_hooks = [dict(type='SourceModelHook')]
    with pytest.raises(ValueError, match='adapts, and this is a ImageClassifier: set'):
        train(cfg)


def _distributed_run(folder, source):
    # Every rank its own random augmentation and dropout, as ever; weights must agree all the same.
    options = {
        **QUIET,
        'load_from': str(source),
        'launcher': 'pytorch',
        'model_wrapper_cfg': dict(CPU_MODEL_WRAPPER),
        **target(),
    }
    runner = train(toy_config(folder, ('dann', 'gradual_unfreeze', *KEEPING), options))
    model = runner.model.module
    values = torch.cat([value.flatten() for value in model.parameters()]).detach()
    others = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(others, values)
    start = torch.cat(
        [value.flatten().float() for value in model.regularizers.source_state().values()]
    )
    return [torch.equal(values, other) for other in others], start.double().sum().item()


def test_ranks_agree_while_layers_unfreeze(source, tmp_path):
    ranks = run_distributed(_distributed_run, tmp_path, source)
    assert all(all(equal) for equal, _ in ranks)
    assert ranks[0][1] == ranks[1][1]
