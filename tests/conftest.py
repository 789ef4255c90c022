from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.distributed import LIBRARIES, begin_at_once

HERE = Path(__file__).parent
#: What runs in every environment of `tools/test_stacks.sh`: some of each room, what touches
#: mmengine, mmpretrain, torch and numpy most, in two minutes of two cores. Folders, files, tests.
STACK_SUBSET = (
    'test_functional',
    'test_stack/test_check.py',
    'test_stack/test_safe_globals.py',
    'test_reporting',
    'test_evaluation',
    'test_datasets/test_degrade_quality.py',
    'test_datasets/test_wrappers.py',
    'test_reliability/test_checkpoints.py',
    'test_reliability/test_exact_resume.py::test_by_epoch',
    'test_engine/test_freezing',
    'test_engine/test_layers/test_layer_map.py',
    'test_engine/test_loops/test_adaptation_loop.py',
    'test_engine/test_optimizers',
    'test_models/test_adaptation_classifier.py',
    'test_models/test_backbones',
    'test_models/test_regularizers/test_regularizers.py',
    'test_launch/test_console.py::test_it_runs_a_tool_on_a_config_of_the_package',
    'test_launch/test_pure_python.py',
    'test_launch/test_runs.py',
    'test_intake/test_config_writer.py::test_a_written_config_trains_and_measures_both_domains',
    'test_intake/test_config_writer.py::test_the_ladder_climbs_on_it',
    'test_analysis/test_advice.py',
    'test_analysis/test_domain_gap.py',
    'test_apis/test_predict.py',
    'test_ladder/test_climb.py',
    'test_ladder/test_results.py',
    'test_ladder/test_run_rung.py',
    'test_strategies.py::test_every_overlay_trains_two_kinds_of_network',
    'test_configs.py::test_mmpretrains_own_train_tool_runs_a_leaf',
)


#: Files that take longest, to begin with: left for the end, one of them would keep one process busy
#: and all others waiting. pytest-xdist would begin with the files of many tests.
LONGEST = (
    'test_package.py',
    'journeys',
    'test_ladder/test_tool.py',
    'test_apis',
    'test_ladder/test_any_data.py',
    'test_combinations.py',
    'test_tools',
    'test_launch/test_nodes.py',
    'test_simulated_gpu.py',
    'test_configs.py',
    'test_ladder',
    'test_strategies.py',
    'test_reliability',
    'test_intake',
    'test_analysis',
    'test_engine/test_loops',
)


def pytest_configure(config):
    config.option.loadscopereorder = False


def _turn(item):
    """When a test begins: by the first of LONGEST that its file is, or is in."""
    if not item.path.is_relative_to(HERE):
        return len(LONGEST)
    place = item.path.relative_to(HERE)
    names = {place.as_posix(), *(parent.as_posix() for parent in place.parents)}
    return next((n for n, name in enumerate(LONGEST) if name in names), len(LONGEST))


# Before pytest looks at `-m`.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(key=_turn)
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        place = item.path.relative_to(HERE)
        names = {place.as_posix(), *(parent.as_posix() for parent in place.parents)}
        names.add(f'{place.as_posix()}::{getattr(item, "originalname", item.name)}')
        if names & set(STACK_SUBSET) and not item.get_closest_marker('slow'):
            item.add_marker(pytest.mark.stack)


@pytest.fixture(autouse=True, scope='session')
def runs_begin_at_once():
    """Run all tests so, see :func:`tests.distributed.begin_at_once`."""
    with pytest.MonkeyPatch.context() as patch:
        begin_at_once(patch.setattr)
        # A process has one fork server: whoever asks first, it has what takes longest to import.
        forkserver.set_forkserver_preload(LIBRARIES)
        patch.setattr(forkserver, 'set_forkserver_preload', lambda names: None)
        yield
