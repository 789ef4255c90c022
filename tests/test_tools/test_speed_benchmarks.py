"""The benchmarks of speed run, small, and what does not depend on the machine is exact."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.test_tools.test_benchmarks import BENCHMARKS, run

SMALL = {
    'naive_dann': ['--model', 'test_vit', '--size', '160', '--batch-size', '2', '--steps', '1'],
    'growth': [
        '--images',
        '100',
        '200',
        '--classes',
        '2',
        '4',
        '--domains',
        '1',
        '2',
        '--layers',
        '2',
        '3',
        '--rungs',
        '1',
        '2',
        '--steps',
        '1',
    ],
    'run_overhead': ['--steps', '2', '--batch-size', '2'],
    'paired_loading': ['--images', '14', '--batch-size', '7', '--passes', '1', '--workers', '0'],
    'import_time': ['--repeats', '1', '--strategies', 'feature_extraction'],
}


def measure(name, arguments, folder):
    out = folder / f'{name}.json'
    run(f'{name}.py', *arguments, '--out', str(out))
    result = json.loads(out.read_text())
    assert result['command'] == f'python tools/benchmarks/{name}.py {" ".join(arguments)}'
    for line in result['lines']:
        assert line['ratio'] is None or line['ratio'] >= 0
        assert line['ours'] >= 0 and line['what'] and line['unit']
    return result


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL)
def test_each_writes_its_lines(name, tmp_path):
    assert measure(name, SMALL[name], tmp_path)['lines']


def test_a_frozen_trunk_keeps_what_one_by_hand_keeps(tmp_path):
    result = measure(
        'frozen_trunk',
        ['--width', '24', '--batch-size', '2', '--steps', '1', '--frozen', '0', '7', '13'],
        tmp_path,
    )
    memory = [line for line in result['lines'] if line['unit'] == 'MB']
    assert [line['ratio'] for line in memory] == pytest.approx([1, 1, 1], rel=0.05)
    assert memory[0]['ours'] > 1.5 * memory[1]['ours'] > 10 * memory[2]['ours']


@pytest.mark.slow
def test_fewer_layers_reduce_fewer_bytes(tmp_path):
    result = measure(
        'ddp_scaling',
        ['--width', '24', '--batch-size', '1', '--steps', '1', '--rounds', '1'],
        tmp_path,
    )
    shares = [line['ratio'] for line in result['lines'] if line['unit'] == 'MB']
    assert shares[0] == 1 and 0.3 < shares[1] < 0.7 and shares[2] < 0.02


@pytest.mark.slow
def test_cached_features_end_in_the_same_head(tmp_path):
    import timm
    import torch

    random = np.random.default_rng(0)
    for index in range(35):
        path = tmp_path / 'images' / f'class_{index % 7}' / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (110, 100, 3), dtype=np.uint8)).save(path)
    weights = tmp_path / 'weights.pth'
    torch.save(timm.create_model('tf_efficientnet_lite0').state_dict(), weights)
    result = measure(
        'cached_features',
        [
            '--images',
            str(tmp_path / 'images'),
            '--weights',
            str(weights),
            '--epochs',
            '2',
            '--batch-size',
            '7',
            '--head-batch-sizes',
            '7',
            '--head-epochs',
            '2',
            '--threads',
            '1',
        ],
        tmp_path,
    )
    assert result['largest_weight_difference'] < 1e-5
    assert result['accuracy_difference'] == 0 and len(result['lines']) == 2


def test_the_readme_is_made_from_results(tmp_path):
    results = tmp_path / 'results'
    results.mkdir()
    line = dict(what='a step', ours=1234.5, plain=0.0123, unit='ms', ratio=2.0, ratio_in_turn=1.5)
    made = dict(
        command='python tools/benchmarks/growth.py --steps 2', machine='x', torch='2', lines=[line]
    )
    (results / 'growth.json').write_text(json.dumps(made))
    readme = tmp_path / 'README.md'
    run('make_readme.py', '--results', str(results), '--readme', str(readme))
    text = readme.read_text()
    assert '| a step | 1,234 ms | 0.0123 ms | 1.5 |' in text and made['command'] in text
    assert 'Not measured yet.' in text.split('## import_time')[1].split('##')[0]
    assert 'python tools/benchmarks/make_readme.py --measure' in text


def test_the_readme_is_that_of_the_results():
    """Typed by nobody: it is what the generator writes from the files beside it."""
    text = run_page()
    assert (BENCHMARKS / 'README.md').read_text() == text


def run_page():
    import runpy

    return runpy.run_path(str(BENCHMARKS / 'make_readme.py'))['page'](BENCHMARKS / 'results')
