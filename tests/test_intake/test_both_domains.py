"""One config that holds both domains, read for tools/diagnose.py."""

from collections import Counter
from pathlib import Path

import pytest

from tl_plugin.intake.any_data import read_both_domains

DIGITS = Path(__file__).resolve().parents[2] / 'configs' / 'digits'


@pytest.mark.parametrize('name', ['ladder.py', 'dann.py'])
def test_every_split_of_both_domains_is_found(name):
    domains = read_both_domains(DIGITS / name)
    assert list(domains) == ['source', 'target']
    for domain, quality in zip(domains.values(), ('clean', 'field')):
        assert {data['quality'] for data in domain.datasets.values()} == {quality}
        counts = Counter(item.split for item in domain.items)
        assert set(counts) == {'train', 'val', 'test'}
        assert counts['val'] == 100
        assert len(domain.classes) == 10


def test_a_config_without_a_target_is_named(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        f'_base_ = {str(DIGITS / "source_only.py")!r}\nval_cfg = dict(_delete_=True)\n'
        'test_cfg = dict(_delete_=True)\n'
    )
    with pytest.raises(ValueError, match=r'names no target: expected ladder\.target_dataloader'):
        read_both_domains(path)
