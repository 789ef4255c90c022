"""A parser that finds positional arguments behind options that take any number of values."""

import argparse
import re
import sys

_NUMBER = re.compile(r'^-\d+$|^-\d*\.\d+$')
_ANY_NUMBER = {argparse.OPTIONAL: 0, argparse.ZERO_OR_MORE: 0, argparse.ONE_OR_MORE: 1}


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose positional arguments may stand anywhere.

    argparse gives ``--strategy adabn CONFIG CHECKPOINT`` wholly to ``--strategy``. Here an option
    that takes any number of values gives its last ones back while positional arguments are missing:
    those that it can't take (no number, no choice, no ``KEY=VALUE``, no known strategy), and those
    that name a config file.
    """

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does, once positional arguments stand before all options."""
        args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._positionals_first(args), namespace)

    def _positionals_first(self, args):
        positionals = [action for action in self._actions if not action.option_strings]
        if '--' in args or any(p.nargs not in (None, argparse.OPTIONAL) for p in positionals):
            return args
        free, runs = self._split(args)
        missing = len(positionals) - len(free)
        for action, places in reversed(runs):
            least = _ANY_NUMBER[action.nargs]
            while missing > 0 and len(places) > least and _is_positional(action, args[places[-1]]):
                free.append(places.pop())
                missing -= 1
        others = [value for place, value in enumerate(args) if place not in free]
        return [*(args[place] for place in sorted(free)), *others]

    def _split(self, args):
        """Places of positional arguments, and those of the values of each option with many."""
        free, runs, action, wanted = [], [], None, 0
        for place, value in enumerate(args):
            if value.startswith('-') and not _NUMBER.match(value) and value != '-':
                action, wanted = self._option(value), 0
                if action is not None and '=' not in value:
                    many = action.nargs in (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE)
                    wanted = len(args) if many else {None: 1, '?': 1}.get(action.nargs, 0)
                    if action.nargs in _ANY_NUMBER:
                        runs.append((action, []))
            elif wanted:
                wanted -= 1
                if action.nargs in _ANY_NUMBER:
                    runs[-1][1].append(place)
            else:
                free.append(place)
        return free, runs

    def _option(self, value):
        flag = value.split('=')[0]
        known = {name: action for action in self._actions for name in action.option_strings}
        alike = {id(known[name]): known[name] for name in known if name.startswith(flag)}
        return known.get(flag) or (next(iter(alike.values())) if len(alike) == 1 else None)


def _is_positional(action, value):
    if getattr(action, 'accepts', None) is not None:
        fits = action.accepts(value)
    else:
        fits = action.choices is None or value in action.choices
        try:
            (action.type or str)(value)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            fits = False
    return not fits or value.endswith('.py') or '::' in value
