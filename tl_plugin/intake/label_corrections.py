"""Labels that a person corrected: applied to data or to a config, and recorded."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from tl_plugin.datasets.bad_data import build_named_dataset
from tl_plugin.datasets.wrappers import wrapped
from tl_plugin.engine.loops.inherit import inherit_dataloader
from tl_plugin.reliability.files import write_json
from tl_plugin.stack.messages import did_you_mean, short_list
from tl_plugin.stack.options import type_name

from .annotation_files import read_rows
from .images import SPLITS, DomainImages, ImageItem

RECORD_NAME = 'label_corrections.json'


@dataclass
class Corrections:
    """A table of corrected labels, and what it changed.

    Args:
        table: The file.
        labels: Image -> its class, None to leave it out.
        changed: Image -> class before and after.
        dropped: Images that are left out.
        kept: Images whose label the table leaves as it is.
    """

    table: str
    labels: Mapping[str, str | None]
    changed: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)

    def find(self, name: str) -> tuple[bool, str | None]:
        """Return whether the table has an image, and its class there."""
        for key in (name, os.path.realpath(name)):
            if key in self.labels:
                return True, self.labels[key]
        return False, None

    def check(self, name: str, before: str | None, classes: Sequence[str]) -> bool:
        """Note what the table says of an image; return whether it changes anything.

        Raises:
            ValueError: If its class isn't one of ``classes``.
        """
        known, label = self.find(name)
        if not known or label == before:
            self.kept.update([name] if known else [])
            return False
        if label is None:
            self.dropped.append(name)
        elif label in classes:
            self.changed[name] = before, label
        else:
            raise ValueError(
                f'{self.table} gives {name} the class {label!r}, which the data have not: '
                f'{short_list(list(classes))}.{did_you_mean(label, list(classes))}'
            )
        return True

    def summary(self) -> str:
        """Return in one sentence what was changed."""
        return (
            f'{self.table}: {len(self.changed)} labels changed, {len(set(self.dropped))} images '
            f'left out, {len(self.kept)} kept as they are.'
        )

    def to_json(self) -> dict:
        """Return what was changed, as JSON can hold it."""
        changed = [dict(file=n, before=old, after=new) for n, (old, new) in self.changed.items()]
        dropped = sorted(set(self.dropped))
        return dict(table=self.table, changed=changed, dropped=dropped, kept=len(self.kept))

    def check_used(self) -> None:
        """Raise a ``ValueError`` if no image of the table was among the data."""
        if not (self.changed or self.dropped or self.kept):
            raise ValueError(
                f'{self.table} lists {len(self.labels)} names, and none is an image of these data; '
                f'the first is {next(iter(self.labels))!r}: give the table that check_labels '
                'wrote for them, or paths relative to its folder'
            )


def read_corrections(path: str | Path) -> Corrections:
    """Read a table of corrected labels.

    Args:
        path: CSV or JSON with an image and a ``label`` column, such as the ``labels.csv`` of
            ``tools/check_labels.py``. An empty label leaves the image out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it isn't such a table, or has no label at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'--labels: no table at {path.absolute()}')
    items, notes = read_rows(path)
    if not any(item.label for item in items):
        raise ValueError(
            f'{path} would leave all images out, since it has no label: expected a column label'
            f'{"".join(f". {note}" for note in notes)}'
        )
    labels: dict[str, str | None] = {}
    for item in items:
        beside = path.absolute().parent / item.name
        labels[item.name] = item.label
        labels[os.path.realpath(beside if beside.exists() else item.name)] = item.label
    return Corrections(str(path), labels)


def correct_domain(domain: DomainImages, corrections: Corrections) -> DomainImages:
    """Correct the labels of a domain.

    Args:
        domain: The domain. It isn't changed, nor are its files.
        corrections: The table; receives what was changed.

    Raises:
        ValueError: If a class isn't one of the domain's.
    """
    kept, changes = [], {}
    numbers: dict[str, int] = {}
    for item in domain.items:
        known, label = corrections.find(item.name)
        if known and corrections.check(item.name, item.label, domain.classes):
            if item.place is not None:
                name = item.name if item.pixels is None else item.place[1]
                changes.setdefault(item.place[0], []).append([name, label])
            if label is None:
                continue
            item = replace(item, label=label)
        kept.append(_renumbered(item, numbers) if domain.datasets else item)
    datasets, sizes = dict(domain.datasets or {}), dict(domain.sizes or {})
    for place, found in changes.items():
        datasets[place] = _wrapped(datasets[place], found)
        sizes[place] -= sum(label is None for _, label in found)
    return replace(domain.with_items(kept), datasets=datasets or None, sizes=sizes or None)


def correct_domains(domains: Sequence[Any], table: str | Path, folder: Path) -> list[Any]:
    """Correct the labels of several domains by one table, and record what was changed.

    Args:
        domains: Domains; what is none is passed on.
        table: See :func:`read_corrections`.
        folder: Where the record goes.

    Returns:
        The domains. The notes of the first say what was changed.

    Raises:
        ValueError: If no image of the table is among them.
    """
    corrections = read_corrections(table)
    found = [
        correct_domain(one, corrections) if isinstance(one, DomainImages) else one
        for one in domains
    ]
    corrections.check_used()
    write_record(corrections, folder)
    return [replace(found[0], notes=(*found[0].notes, corrections.summary())), *found[1:]]


def _renumbered(item: ImageItem, numbers: dict[str, int]) -> ImageItem:
    """Give an image the number that it has where those before it are left out."""
    place = item.place[0]
    numbers[place] = numbers.get(place, -1) + 1
    return replace(item, place=(place, numbers[place]))


def _wrapped(config: dict, changes: list) -> dict:
    return dict(type='CorrectedLabels', dataset=config, changes=changes)


def correct_config(cfg: Config, corrections: Corrections) -> None:
    """Correct the labels of a config's data, in place.

    Those of the three loaders, of each domain that is validated or tested, and of the few labelled
    target images of a ladder.

    Args:
        cfg: A config.
        corrections: The table; receives what was changed.

    Raises:
        ValueError: If a class isn't one of the data's, or no image of the table is among them.
    """
    originals = {split: copy.deepcopy(cfg.get(f'{split}_dataloader')) for split in SPLITS}
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        for split in SPLITS:
            loader = cfg.get(f'{split}_dataloader')
            if loader and loader.get('dataset'):
                loader.dataset = corrected_dataset(loader.dataset, split, corrections)
        for owner, name, base in _other_loaders(cfg):
            full = inherit_dataloader(originals[base], owner[name], name, labelled=True)
            corrected = corrected_dataset(full['dataset'], None, corrections)
            if corrected != full['dataset']:
                owner[name] = dict(full, dataset=corrected)
    corrections.check_used()


def _other_loaders(cfg: Config) -> Iterable[tuple[dict, str, str]]:
    for split in ('val', 'test'):
        domains = (cfg.get(f'{split}_cfg') or {}).get('dataloaders') or {}
        for name in domains:
            yield domains, name, split
    ladder = cfg.get('ladder') or {}
    if ladder.get('labelled_target_dataloader'):
        yield ladder, 'labelled_target_dataloader', 'train'


def corrected_dataset(config: Any, split: str | None, corrections: Corrections) -> Any:
    """Return a data set's config with the data sets inside corrected; it isn't changed itself.

    Args:
        config: Of a data set, perhaps one that wraps others.
        split: Name of the loader, of which images without a file have their names.
        corrections: The table; receives what was changed.
    """
    config = Config(dict(dataset=config)).to_dict()['dataset']
    for number, leaf in enumerate(_leaves(config)):
        changes = _changes(leaf, f'{split}/{number}' if number else split, corrections)
        if changes:
            original = dict(leaf)
            leaf.clear()
            leaf.update(_wrapped(original, changes))
    return config


def _leaves(config: dict) -> list[dict]:
    """List the configs whose images are numbered as :func:`~tl_plugin.intake.any_data` does.

    A fold stays the same one where images are left out of it, and not of what it is a fold of.
    """
    inside = [] if type_name(config) in ('KFoldDataset', 'CorrectedLabels') else wrapped(config)
    return [leaf for part in inside for leaf in _leaves(part)] or [config]


def _changes(leaf: dict, place: str, corrections: Corrections) -> list:
    dataset = build_named_dataset(copy.deepcopy(leaf))
    classes = tuple((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
    if not hasattr(dataset, 'get_data_info') or not classes:
        return []
    found = []
    for number in range(len(dataset)):
        info = dataset.get_data_info(number)
        in_memory = info.get('img') is not None
        name = f'{place}/{number}' if in_memory else str(info['img_path'])
        label = info.get('gt_label')
        if label is None or getattr(label, 'ndim', 0) or isinstance(label, (list, tuple)):
            continue
        before = classes[int(label)] if 0 <= int(label) < len(classes) else None
        if corrections.check(name, before, classes):
            found.append([number if in_memory else name, corrections.find(name)[1]])
    return found


def write_record(corrections: Corrections, folder: str | Path) -> Path:
    """Write into a run's folder which labels were changed."""
    path = Path(folder) / RECORD_NAME
    write_json(path, corrections.to_json())
    return path


def corrected_config_file(config: str | Path, table: str | Path, folder: Path) -> Path:
    """Write a config whose labels are corrected, and the record beside it.

    Args:
        config: A config, or ``package::path``.
        table: See :func:`read_corrections`.
        folder: Where to write.

    Returns:
        The path of the new config. The notes of its ladder say what was changed.
    """
    from tl_plugin.launch.configs import load_data_config

    cfg, corrections = load_data_config(config), read_corrections(table)
    correct_config(cfg, corrections)
    ladder = cfg.get('ladder') or {}
    cfg.ladder = dict(ladder, notes=[*(ladder.get('notes') or ()), corrections.summary()])
    folder.mkdir(parents=True, exist_ok=True)
    write_record(corrections, folder)
    path = folder / 'corrected_config.py'
    cfg.dump(path)
    return path
