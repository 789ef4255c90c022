"""Write a field-like copy of a curated data set."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np

from tl_plugin.datasets.degrade_quality import DegradeQuality
from tl_plugin.reliability.files import write_json

from .images import ImageItem


def write_degraded(
    items: Iterable[ImageItem],
    folder: Path,
    degrade: DegradeQuality | None,
    advance: Callable[[int], None] = lambda count: None,
    places: Mapping[Path, ImageItem] | None = None,
) -> list[str]:
    """Degrade images into a new folder, ``CLASS/NAME.png``; those without a class into its root.

    ``<folder>.json`` beside it records the corruptions.

    Args:
        items: The images. None is changed.
        folder: Where to write. It appears when all of them are there.
        degrade: The corruptions; with a seed, each image always gets the same. None writes the
            images without any.
        advance: Called with 1 after each image.
        places: Path in the folder -> image. Defaults to None, by class and name.

    Returns:
        Why images were left out, one line each: those that can't be read.

    Raises:
        FileExistsError: If the folder is there already.
        ValueError: If two images would get the same name, or none can be read.
    """
    places = target_paths(items) if places is None else places
    names = png_names(places)
    partial = _begin(folder)
    broken = []
    for place, item in places.items():
        image, reason = _read(item)
        if image is None:
            broken.append(f'{item.name}: {reason}')
        else:
            found = image
            if degrade is not None:
                found = degrade.transform(dict(img=image, img_path=item.name))['img']
            if item.pixels is not None and found.ndim == 3 and found.shape[2] == 3:
                found = found[..., ::-1]
            path = partial / names[place]
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not OpenCV's own writing, which takes no names that aren't UTF-8.
            path.write_bytes(cv2.imencode('.png', found)[1].tobytes())
        advance(1)
    if len(broken) == len(places):
        shutil.rmtree(partial)
        raise ValueError(f'none of {len(places)} images can be read, the first is {broken[0]}')
    partial.rename(folder)
    # Beside the folder, in which every file counts as an image.
    about = dict(transform=repr(degrade), images=len(places) - len(broken), left_out=broken)
    write_json(folder.with_name(f'{folder.name}.json'), about)
    return broken


def copy_files(items: Iterable[ImageItem], folder: Path) -> None:
    """Copy images as they are, into ``CLASS/NAME`` of a new folder.

    Raises:
        FileExistsError: If the folder is there already.
        ValueError: If an image has no file, or two would get the same name.
    """
    places = target_paths(items)
    partial = _begin(folder)
    for place, item in places.items():
        if item.pixels is not None:
            shutil.rmtree(partial)
            raise ValueError(f'{item.name} has no file that could be copied: give a folder')
        (partial / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(item.name, partial / place)
    partial.rename(folder)


def target_paths(items: Iterable[ImageItem]) -> dict[Path, ImageItem]:
    """Return the path of each image in a folder of classes.

    Raises:
        ValueError: If two get the same.

    Example:
        >>> [str(path) for path in target_paths([ImageItem('a/b/1.jpg', 'cat')])]
        ['cat/1.jpg']
    """
    places: dict[Path, ImageItem] = {}
    for item in items:
        place = Path(item.label or '', Path(item.name).name)
        if place in places:
            raise ValueError(
                f'{places[place].name} and {item.name} would both be written as {place}: give each '
                'image of a class a name of its own'
            )
        places[place] = item
    return places


def relabelled_paths(
    items: Sequence[ImageItem], labels: Sequence[str | None]
) -> dict[Path, ImageItem]:
    """Return the path of each image in a folder of classes, where the labels are others.

    Where images of two classes have one name, every image gets a longer one, so that a name
    doesn't tell which images were moved.

    Args:
        items: The images.
        labels: The class of each in the folder.
    """
    names = [Path(item.name).name for item in items]
    if len({Path(name).stem for name in names}) < len(names):
        names = [
            f'{Path(name).stem}_{hashlib.sha256(os.fsencode(item.name)).hexdigest()[:10]}'
            f'{Path(name).suffix}'
            for name, item in zip(names, items)
        ]
    return {Path(label or '', name): item for name, label, item in zip(names, labels, items)}


def png_names(places: Collection[Path]) -> dict[Path, Path]:
    """Turn ``a.jpg`` into ``a.png``, and into ``a.jpg.png`` where there is an ``a.png`` too."""
    stems = Counter(place.with_suffix('') for place in places)
    return {
        place: Path(f'{place.with_suffix("") if stems[place.with_suffix("")] == 1 else place}.png')
        for place in places
    }


def colour_thumbnails(
    items: Sequence[ImageItem], advance: Callable[[int], None] = lambda count: None, side: int = 16
) -> np.ndarray:
    """Return small versions of images, ``(N, side, side, 3)``; those that can't be read are black.

    Args:
        items: The images.
        advance: Called with 1 after each image.
        side: Their width and height. Defaults to 16.
    """
    found = np.zeros((len(items), side, side, 3), np.float32)
    for row, item in enumerate(items):
        image, _ = _read(item)
        if image is not None:
            small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            found[row] = small.reshape(side, side, -1)[..., :3]
        advance(1)
    return found


def _read(item: ImageItem) -> tuple[np.ndarray | None, str]:
    """Return the pixels, in BGR as files are read in training; or None and the reason."""
    if item.pixels is not None:
        return item.pixels, ''
    if not Path(item.name).is_file():  # to open a pipe is to wait for its writer
        return None, 'not a file'
    try:
        return mmcv.imread(item.name), 'not an image'
    except (OSError, ValueError, cv2.error) as error:
        return None, str(error)


def _begin(folder: Path) -> Path:
    """Make a folder beside the wanted one, which the next run clears if this one fails."""
    if folder.exists():
        raise FileExistsError(f'{folder} is there already: remove it, or write elsewhere')
    partial = folder.with_name(f'{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial
