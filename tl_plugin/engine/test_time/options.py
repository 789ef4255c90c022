"""The options of test-time adaptation, checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tl_plugin.stack.messages import did_you_mean

#: What each method does unless told otherwise.
METHODS = {
    'tent': dict(margin=1.0, rho=0.0, prior=0.0, depth=1.0, min_entropy=0.0, guard='reset'),
    'sar': dict(margin=0.4, rho=0.05, prior=16.0, depth=0.75, min_entropy=0.03, guard='source'),
}
GUARDS = ('none', 'reset', 'source')


@dataclass(frozen=True)
class TestTimeOptions:
    """The options of ``model.test_time``, as :class:`TestTimeClassifier` describes them.

    Raises:
        ValueError: If a value is out of its range.
    """

    __test__ = False  # no test, whatever pytest thinks of its name

    method: str
    lr: float = 1e-3
    momentum: float = 0.9
    margin: float = 1.0
    rho: float = 0.0
    prior: float = 0.0
    depth: float = 1.0
    min_entropy: float = 0.0
    guard: str = 'reset'
    min_balance: float = 0.5
    memory: int = 200
    reset_interval: int | None = None
    min_batch: int = 16
    window: int = 64

    @classmethod
    def read(cls, options: dict) -> TestTimeOptions:
        """Fill in the method's own defaults.

        Raises:
            ValueError: For an unknown method or option, with the nearest known one.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(
                    f'model.test_time has no option {name!r}.{did_you_mean(name, known)} Known '
                    f'options: {", ".join(known)}'
                )
        method = options.get('method')
        if method not in METHODS:
            raise ValueError(
                f'model.test_time.method must be one of {", ".join(METHODS)}, got {method!r}'
            )
        return cls(**{**METHODS[method], **options})

    def __post_init__(self) -> None:
        self._check('lr', self.lr >= 0, '0 or more')
        self._check('momentum', 0 <= self.momentum < 1, 'in [0, 1)')
        self._check('margin', 0 < self.margin <= 1, 'a share of ln K in (0, 1]')
        self._check('rho', self.rho >= 0, '0 or more')
        self._check('prior', self.prior >= 0, 'a number of images, 0 or more')
        self._check('depth', 0 < self.depth <= 1, 'a share of the layers in (0, 1]')
        self._check('min_entropy', 0 <= self.min_entropy < 1, 'a share of ln K in [0, 1)')
        self._check('guard', self.guard in GUARDS, f'one of {", ".join(GUARDS)}')
        self._check('min_balance', 0 <= self.min_balance <= 1, 'a share in [0, 1]')
        self._check('memory', self.memory >= 1, 'a number of images, 1 or more')
        interval = self.reset_interval
        self._check('reset_interval', interval is None or interval >= 1, 'batches, 1 or more')
        self._check('min_batch', self.min_batch >= 1, 'a number of images, 1 or more')
        self._check('window', self.window >= 0, 'a number of images, 0 or more')

    def _check(self, name: str, holds: Any, expected: str) -> None:
        if not holds:
            raise ValueError(
                f'model.test_time.{name} must be {expected}, got {getattr(self, name)!r}'
            )
