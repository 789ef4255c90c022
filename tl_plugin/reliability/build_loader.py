from __future__ import annotations

from typing import Any

from tl_plugin.datasets.bad_data import describe_data, naming_bad_data


def build_loader(runner: Any, loader: Any, domain: str, seed_offset: int = 0) -> Any:
    """Builds a loader, and says what is wrong with its data where that fails.

    Args:
        runner: The runner, whose seed and randomness the loader takes.
        loader: A config; a loader that is built already passes as it is.
        domain: What it is called, for messages: 'source'.
        seed_offset: Added to the runner's seed. Defaults to 0.

    Raises:
        ValueError: If there are no images, or an annotation can't be read.
        TypeError: If it is neither a config nor a loader.
    """
    if not isinstance(loader, dict):
        if not hasattr(loader, 'dataset'):
            raise TypeError(f'the {domain} loader must be a dict(dataset=...), got {loader!r}')
        return loader
    if not isinstance(loader.get('dataset'), dict):
        raise TypeError(
            f'the {domain} loader needs dataset=dict(type=...), got {loader.get("dataset")!r}'
        )
    try:
        with naming_bad_data():
            built = runner.build_dataloader(
                loader,
                seed=runner.seed + seed_offset,
                diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
            )
    except ValueError as error:
        raise ValueError(f'the {domain} data: {error}') from error
    if hasattr(built.dataset, '__len__') and len(built.dataset) == 0:
        described = describe_data(loader['dataset'])
        raise ValueError(f'the {domain} data: the data set has no images: {described}')
    return built
