"""The options of layer-wise learning rates, checked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from numbers import Real

from tl_plugin.stack.messages import did_you_mean

#: An option of mmengine's constructor that is always on here: shared parameters are held once.
IMPLIED = ('bypass_duplicate',)


@dataclass(frozen=True)
class LayerwiseOptions:
    """The options of ``paramwise_cfg``, as the constructor describes them.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value out of range, or an option of ``custom_keys`` that nearly is one.
    """

    layer_decay_rate: float = 1.0
    base_lr_mult: float = 1.0
    head_lr_mult: float = 1.0
    custom_keys: dict = field(default_factory=dict)
    bias_lr_mult: float = 1.0
    norm_decay_mult: float | None = None
    bias_decay_mult: float | None = None
    dwconv_decay_mult: float | None = None
    flat_decay_mult: float | None = None

    @classmethod
    def read(cls, paramwise_cfg: dict | None) -> LayerwiseOptions:
        """Read a config's ``paramwise_cfg``.

        Raises:
            ValueError: For an unknown option, with the nearest known one.
            TypeError: If it is no dict.
        """
        if paramwise_cfg is not None and not isinstance(paramwise_cfg, dict):
            raise TypeError(f'paramwise_cfg must be a dict of options, got {paramwise_cfg!r}.')
        cfg = {key: value for key, value in (paramwise_cfg or {}).items() if key not in IMPLIED}
        known = [item.name for item in fields(cls)]
        for key in cfg:
            if key not in known:
                raise ValueError(
                    f'paramwise_cfg has no option {key!r}.{did_you_mean(key, known)} '
                    f'Known options: {", ".join(known)}.'
                )
        return cls(**cfg)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != 'custom_keys' and value is not None:
                _check_multiplier(item.name, value)
        if not 0 < self.layer_decay_rate <= 1:
            raise ValueError(
                f'layer_decay_rate={self.layer_decay_rate}: expected a factor above '
                '0 and up to 1, such as 0.75.'
            )
        if not isinstance(self.custom_keys, dict):
            raise TypeError(
                'custom_keys must be a dict of pattern to dict(lr_mult=, decay_mult=), '
                f'got {type(self.custom_keys).__name__}.'
            )
        for pattern, setting in self.custom_keys.items():
            _check_setting(pattern, setting)

    def patterns(self) -> dict[str, re.Pattern]:
        """Compile the keys of ``custom_keys``, the longest first: the first that matches counts."""
        ordered = sorted(sorted(self.custom_keys), key=len, reverse=True)
        return {key: re.compile(key) for key in ordered}


def _check_multiplier(name: str, value) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f'{name} must be a number, got {value!r}.')
    if not 0 <= value < math.inf:
        raise ValueError(f'{name}={value}: expected 0 or more, and a finite number.')


def _check_setting(pattern: str, setting) -> None:
    if not isinstance(pattern, str) or not pattern:
        raise TypeError(f'custom_keys: expected a regular expression over names, got {pattern!r}.')
    if not isinstance(setting, dict):
        raise TypeError(
            f'custom_keys[{pattern!r}] must be dict(lr_mult=, decay_mult=), got {setting!r}.'
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f'custom_keys: {pattern!r} is no regular expression: {error}.') from error
    for key, value in setting.items():
        if key in ('lr_mult', 'decay_mult'):
            _check_multiplier(f'custom_keys[{pattern!r}].{key}', value)
        elif did_you_mean(key, ('lr_mult', 'decay_mult'), cutoff=0.7):
            raise ValueError(
                f'custom_keys[{pattern!r}] has {key!r}: did you mean lr_mult or decay_mult?'
            )
