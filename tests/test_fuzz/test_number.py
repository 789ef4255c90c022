"""How many malformed inputs all kinds together have."""

from tests.test_fuzz import (  # noqa: F401  each adds its own
    test_annotations,
    test_checkpoints,
    test_overlays,
    test_patterns,
    test_schedules,
)
from tests.test_fuzz.refusal import TIMES, promised


def test_there_are_five_hundred_of_five_kinds():
    assert len(promised) == 5
    assert sum(promised.values()) >= 500 * TIMES
