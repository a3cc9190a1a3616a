"""The data sets by name."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.datasets.chesapeake import CHESAPEAKE, CHESAPEAKE_4
from pipeline.datasets.config import DatasetConfig
from pipeline.datasets.dataset import Dataset, Opened
from pipeline.datasets.dfc2020 import DFC2020
from pipeline.datasets.segmunich import SEGMUNICH
from pipeline.datasets.sen1floods11 import SEN1FLOODS11
from pipeline.datasets.spacenet2 import SPACENET2
from pipeline.errors import ConfigError

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (CHESAPEAKE, CHESAPEAKE_4, SPACENET2, SEGMUNICH, DFC2020, SEN1FLOODS11)
}
"""Name in evaluation files → data set."""


def dataset_named(name: str, options: Mapping[str, str] | None = None) -> Dataset:
    """A data set by its name.

    Raises:
        ConfigError: Unknown name or option.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}; there are {', '.join(sorted(DATASETS)) or 'none'}")
    dataset = DATASETS[name]
    unknown = sorted(set(options or {}) - set(dataset.options))
    if unknown:
        raise ConfigError(
            f"data set {name}: unknown option {', '.join(unknown)}; it has {', '.join(dataset.options) or 'none'}"
        )
    return dataset


def open_dataset(config: DatasetConfig) -> Opened:
    """Opens a split.

    Raises:
        ChipError: The folder is not as released.
        ConfigError: Unknown data set, split or option.
    """
    dataset = dataset_named(config.name, config.options)
    split = config.split or dataset.default_split
    if split not in dataset.splits:
        raise ConfigError(f"data set {config.name}: unknown split {split!r}; it has {', '.join(dataset.splits)}")
    return dataset.open(dataset, config.root, split, config.options)
