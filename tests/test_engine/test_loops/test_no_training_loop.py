"""A run without training: its model is its start's to the bit, but for what hooks change."""

import torch

from tests.toy import toy_config, train
from tl_plugin.reliability.checkpoints import read_whole

FIELD = dict(dataset=dict(shift=0.5, size=8))
DOMAINS = {
    f'{split}_cfg': dict(type=f'Domain{split.title()}Loop', dataloaders=dict(target=FIELD))
    for split in ('val', 'test')
}


def _weights(path):
    return read_whole(path)['state_dict']


def _source(tmp_path):
    train(toy_config(tmp_path / 'source', max_epochs=1))
    return tmp_path / 'source' / 'epoch_1.pth'


def test_it_saves_and_validates_what_it_started_from(tmp_path):
    start = _source(tmp_path)
    options = {'load_from': str(start), **DOMAINS}
    # Lengths of the config that it takes the place of don't matter, nor does how they are counted.
    cfg = toy_config(tmp_path / 'none', ['no_training'], options, max_iters=7)
    cfg.custom_hooks = [dict(type='ExactResumeHook')]
    runner = train(cfg)
    (log,) = (tmp_path / 'none').glob('*/*.log')
    assert 'whether it resumes exactly' not in log.read_text()  # nothing is left to resume
    assert (runner.epoch, runner.iter) == (1, 0)
    assert not any(parameter.requires_grad for parameter in runner.model.parameters())
    assert 'target/accuracy/top1' in ''.join(runner.message_hub.log_scalars)
    before, after = _weights(start), _weights(tmp_path / 'none' / 'epoch_1.pth')
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adabn_in_it_changes_statistics_alone_and_a_resumed_run_nothing(tmp_path):
    start = _source(tmp_path)
    options = {'load_from': str(start), **DOMAINS}
    train(toy_config(tmp_path / 'adabn', ['adabn', 'no_training'], options))
    path = tmp_path / 'adabn' / 'epoch_1.pth'
    before, after = _weights(start), _weights(path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(('running_mean', 'running_var')) for name in changed)
    # The first norm sees the stem's convolution of the target's images: computed by hand.
    model = train(toy_config(tmp_path / 'other', ['no_training'], options)).model.eval()
    dataset = model_inputs(tmp_path)
    stem = model.backbone.conv1(model.data_preprocessor(dataset, False)['inputs'])
    expected = stem.detach().double().mean((0, 2, 3))
    torch.testing.assert_close(after['backbone.bn1.running_mean'].double(), expected)

    options.update(load_from=str(path), resume=True)
    runner = train(toy_config(tmp_path / 'again', ['adabn', 'no_training'], options))
    assert runner.epoch == 1
    assert all(torch.equal(after[name], value) for name, value in runner.model.state_dict().items())


def model_inputs(tmp_path):
    """The target's images, as one batch."""
    from tests.toy import ToyDataset

    dataset = ToyDataset(**FIELD['dataset'])
    images = [torch.from_numpy(dataset.get_data_info(i)['img']) for i in range(len(dataset))]
    return dict(inputs=[image.permute(2, 0, 1) for image in images])
