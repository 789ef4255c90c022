"""Tell training images apart by what they are, whatever order they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .bad_data import describe_data
from .several_sources import SeveralSources
from .wrappers import image_infos, inner_datasets, locate, wrapped


class ImageNumbers:
    """A number for each image of some data sets: the same in every batch, pass and process.

    Images are identified by their path or, where the data set holds the pixels, by their place in
    it. An image that is repeated has one number.

    Args:
        datasets: Domain -> a built data set, perhaps one that wraps others.

    Raises:
        TypeError: If a data set does not describe its images.
        ValueError: If images have no path and several data sets are joined, so that they share
            their places.
    """

    def __init__(self, datasets: Mapping[str, Any]) -> None:
        self._numbers: dict[tuple, int] = {}
        for domain, dataset in datasets.items():
            for key, _ in keyed_images(dataset, domain):
                self._numbers.setdefault(key, len(self._numbers))

    @property
    def keys(self) -> list[tuple]:
        """What identifies the images, in the order of their numbers."""
        return list(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, samples: Iterable[Any], domain: str | None = None) -> list[int]:
        """Return the numbers of some images.

        Args:
            samples: Data samples of a batch.
            domain: Their domain. Defaults to None, what each says.

        Raises:
            ValueError: If one isn't of these data sets.
        """
        return [_value(self._numbers, sample, domain) for sample in samples]


class ImageWeights:
    """A weight for each image of a data set.

    Args:
        weights: By what :func:`keyed_images` tells the images by.
    """

    def __init__(self, weights: Mapping[tuple, float]) -> None:
        self._weights = weights

    def of(self, samples: Iterable[Any]) -> list[float]:
        """Return the weights of some images.

        Args:
            samples: Data samples of a batch.

        Raises:
            ValueError: If one isn't of the data set.
        """
        return [_value(self._weights, sample) for sample in samples]


def _value(values: Mapping[tuple, Any], sample: Any, domain: str | None = None) -> Any:
    domain, path = domain or sample.get('domain', 'source'), sample.get('img_path')
    found = None if path is None else values.get((domain, str(path)))
    if found is None:
        place = sample.get('source_index') or 0, sample.get('sample_idx')
        found = values.get((domain, *place))
    if found is None:
        raise ValueError(
            f'an image of the {domain} with img_path={path!r} and sample_idx='
            f'{sample.get("sample_idx")!r} is none of the {len(values)} training images, which '
            'these two identify: end the pipeline in PackInputs with its default meta_keys'
        )
    return found


def keyed_images(dataset: Any, domain: str) -> Iterator[tuple[tuple, dict]]:
    """Yield what identifies each image, and what the data set records of it.

    Args:
        dataset: A built data set, perhaps one that wraps others.
        domain: Its domain.

    Yields:
        ``(domain, path)``, or ``(domain, number of the data set among joined ones, place in it)``
        where the data set holds the pixels; and the record.

    Raises:
        TypeError: If a data set does not describe its images.
        ValueError: If places are not unique.
    """
    joined = _several_sources(dataset)
    parts = [dataset] if joined is None else joined.datasets
    for number, part in enumerate(parts):
        unclear = len(list(inner_datasets(part))) > 1
        for info in image_infos(part):
            if info.get('img_path') is not None:
                yield (domain, str(info['img_path'])), info
                continue
            if unclear:
                raise ValueError(
                    f'images of the {domain} have no path, and several data sets are joined, each '
                    f'of which counts from 0: {describe_data(part)}. Join them by SeveralSources, '
                    'which says of each image where it is from'
                )
            yield (domain, number, info.get('sample_idx')), info


def identity(dataset: Any, index: int) -> dict:
    """Return by which fields a data sample identifies its image: its place.

    Args:
        dataset: A built data set, perhaps one that wraps others.
        index: Of the image, from 0.
    """
    inner, place = locate(dataset, index)
    joined = _several_sources(dataset)
    if joined is None:
        return dict(sample_idx=place)
    owners = [any(inner is each for each in inner_datasets(part)) for part in joined.datasets]
    return dict(sample_idx=place, source_index=owners.index(True))


def _several_sources(dataset: Any) -> SeveralSources | None:
    while not isinstance(dataset, SeveralSources):
        inside = wrapped(dataset)
        if len(inside) != 1:
            return None
        dataset = inside[0]
    return dataset


def short_name(key: tuple) -> tuple:
    """Return a key without the folders that data may be moved to: class folder and file name."""
    domain, *place = key
    return (domain, *Path(place[0]).parts[-2:]) if len(place) == 1 else key
