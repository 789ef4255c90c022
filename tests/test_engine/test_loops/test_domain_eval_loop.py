import pickle

import pytest
from mmengine.runner import Runner

from tests.toy import loader, toy_config, train

DOMAINS = dict(dark=dict(dataset=dict(shift=0.5, size=15)), odd=dict(dataset=dict(seed=5)))


def _options(kind, domains=DOMAINS):
    return {f'{kind}_cfg': dict(type=f'Domain{kind.title()}Loop', dataloaders=domains)}


def test_metrics_are_those_of_separate_evaluations(tmp_path):
    runner = train(toy_config(tmp_path / 'all', options=_options('test')))
    found = runner.test()
    checkpoint = str(tmp_path / 'all' / 'epoch_2.pth')
    for name, dataset in (('source', {}), ('dark', DOMAINS['dark']['dataset'])):
        cfg = toy_config(tmp_path / name, options=dict(load_from=checkpoint))
        cfg.test_dataloader = loader(shuffle=False, **dataset)
        expected = Runner.from_cfg(cfg).test()
        assert found[f'{name}/accuracy/top1'] == expected['accuracy/top1']
    assert set(found) == {f'{name}/accuracy/top1' for name in ('source', 'dark', 'odd')}


def test_validation_logs_and_chooses_by_domain(tmp_path):
    options = {
        **_options('val'),
        'default_hooks.checkpoint.save_best': 'source/accuracy/top1',
    }
    runner = train(toy_config(tmp_path, options=options))
    scalars = runner.message_hub.log_scalars
    assert {f'val/{name}/accuracy/top1' for name in ('source', 'dark', 'odd')} <= set(scalars)
    assert list(tmp_path.glob('best_source_accuracy_top1_epoch_*.pth'))


def test_a_metric_that_writes_writes_one_file_a_domain(tmp_path):
    options = {
        **_options('test'),
        'test_evaluator': [dict(type='DumpResults', out_file_path=str(tmp_path / 'out.pkl'))],
    }
    train(toy_config(tmp_path, options=options)).test()
    sizes = {
        name: len(pickle.loads((tmp_path / f'out.{name}.pkl').read_bytes()))
        for name in ('source', 'dark', 'odd')
    }
    assert sizes == dict(source=12, dark=15, odd=12)


@pytest.mark.parametrize(
    ('domains', 'message'),
    [
        ({}, 'name at least one'),
        (dict(source=DOMAINS['dark']), "'source' can't be the name"),
        ({'a/b': DOMAINS['dark']}, "'a/b' can't be the name"),
        (dict(dark={}), r'val_cfg.dataloaders.dark names no data'),
    ],
)
def test_wrong_domains(tmp_path, domains, message):
    cfg = toy_config(tmp_path)
    cfg.val_cfg = dict(type='DomainValLoop', dataloaders=domains)
    with pytest.raises(ValueError, match=message):
        train(cfg)


def test_evaluators_of_a_domain_that_is_not_there(tmp_path):
    cfg = toy_config(tmp_path, options=_options('val'))
    cfg.val_cfg.evaluators = dict(drak=dict(type='Accuracy'))
    with pytest.raises(ValueError, match='names drak, but the domains are source, dark, odd'):
        train(cfg)
