import mmengine.runner.runner as runner_module
import pytest


@pytest.fixture(autouse=True, scope='session')
def environment_collected_once():
    """mmengine asks compilers for their versions each time a Runner is built."""
    collected = runner_module.collect_env()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, 'collect_env', lambda: dict(collected))
        yield
