"""results.schema.json describes every results.json, and every field of the records."""

import dataclasses
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

import tl_plugin.ladder
from tl_plugin.ladder.jobs import plan
from tl_plugin.ladder.records import (
    DomainResult,
    FailedRun,
    LadderResults,
    Recommendation,
    RungResult,
)
from tl_plugin.ladder.results import collect, read_results
from tl_plugin.ladder.run_records import SCHEMA_VERSION, KeptLayers
from tl_plugin.ladder.rungs import DATA_NEEDS
from tl_plugin.reliability.files import write_json

SCHEMA = json.loads(Path(tl_plugin.ladder.__file__).with_name('results.schema.json').read_text())
RECORDS = {
    'rung': RungResult,
    'domain': DomainResult,
    'kept_layers': KeptLayers,
    'recommendation': Recommendation,
    'failure': FailedRun,
}


def check(results):
    content = json.loads(json.dumps(results.to_json()))
    Draft202012Validator(SCHEMA).validate(content)
    assert LadderResults.from_json(content) == results
    return content


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA['$defs']) == set(RECORDS)


@pytest.mark.parametrize('name', [None, *RECORDS])
def test_every_field_of_a_record_is_described(name):
    described = SCHEMA['$defs'][name] if name else SCHEMA
    fields = {item.name for item in dataclasses.fields(RECORDS[name] if name else LadderResults)}
    assert set(described['properties']) == set(described['required']) == fields
    assert described['additionalProperties'] is False
    for field in described['properties'].values():
        assert field['description']
        # What may be null says when it is.
        assert ('null' in json.dumps(field.get('type') or field.get('anyOf') or '')) <= (
            'null:' in field['description']
        )
    assert SCHEMA['properties']['schema_version']['const'] == SCHEMA_VERSION
    assert SCHEMA['$defs']['rung']['properties']['data']['enum'] == list(DATA_NEEDS)


def test_results_of_several_seeds_and_of_a_rung_that_failed(results):
    content = check(results)
    assert [len(rung['seeds']) for rung in content['rungs']] == [3, 2]
    assert content['failures'][0]['reason'] == 'ValueError: x'


def test_results_without_any_finished_run(tiny_rungs, tmp_path):
    jobs = plan(*tiny_rungs, [0], tmp_path)
    content = check(
        collect(jobs, [FailedRun(*job.id, 'x', 'console.log') for job in jobs], 'tiny.py')
    )
    assert content['recommendation'] is None and content['no_recommendation']


def test_a_wrong_result_is_no_result(results):
    content = check(results)
    content['rungs'][0]['domains']['target']['accuracy'] = 101
    with pytest.raises(ValidationError, match='101'):
        Draft202012Validator(SCHEMA).validate(content)


@pytest.mark.parametrize('version', [None, 0, SCHEMA_VERSION + 1])
def test_results_of_another_version_are_refused(results, tmp_path, version):
    path = tmp_path / 'results.json'
    write_json(path, {**results.to_json(), 'schema_version': version})
    message = rf'results\.json has schema_version {version}, .* reads {SCHEMA_VERSION}: .*run tools'
    with pytest.raises(ValueError, match=message):
        read_results(path)
