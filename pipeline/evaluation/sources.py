"""Labelled chips from wherever they come: the simulator, chip folders, shards, a raster, a public data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.chips.chip_folder import ChipFolder
from pipeline.errors import ChipError, ConfigError
from pipeline.evaluation.chips import LabelledChip, Source
from pipeline.evaluation.config import ChipsConfig, ShardsConfig, SimulatedConfig, SourceConfig
from spex_core.legend import Legend

if TYPE_CHECKING:
    from pipeline.simulation.biomes import Biome
    from spex_core.batches import ChipSource

FloatArray = npt.NDArray[np.float32]
Channels = npt.NDArray[np.int16]


@dataclass(frozen=True)
class World:
    """One world of the simulator; None: random per chip."""

    name: str
    first_seed: int
    biome: Biome | None = None
    season: float | None = None
    haze: float | None = None


class Labelled:
    """A training source as labelled chips: the most probable class where it has weight and is probable enough."""

    def __init__(self, source: ChipSource, min_confidence: float = 0.0, chosen: Sequence[int] | None = None) -> None:
        self._source, self._min = source, min_confidence
        self._chosen = range(len(source)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def chip(self, index: int) -> LabelledChip:
        """See :class:`Chips`."""
        reflectance, target, weight = self._source.chip(self._chosen[index])
        best = target.argmax(axis=0).astype(np.int16)
        # A pixel of a class that the legend lacks has no probability at all.
        known = (weight > 0) & (target.max(axis=0) > self._min)
        return LabelledChip(reflectance, np.where(known, best, np.int16(-1)))


class Simulated:
    """Chips of the simulator, drawn when they are asked for.

    Args:
        config: How many, how large.
        legend: Classes of the labels; pixels of others have none.
        world: One world; default: a random one per chip.
    """

    def __init__(self, config: SimulatedConfig, legend: Legend, world: World | None = None) -> None:
        self._config, self._world = config, world
        self._channel = np.full(256, -1, np.int16)
        self._channel[list(legend.codes)] = np.arange(len(legend))

    def __len__(self) -> int:
        return self._config.chips

    def chip(self, index: int) -> LabelledChip:
        """See :class:`Chips`."""
        from pipeline.simulation.chips import simulate_chip

        world = self._world
        if world is None:
            reflectance, codes = simulate_chip(self._config.first_seed + index, self._config.size_px)
        else:
            reflectance, codes = simulate_chip(
                world.first_seed + index,
                self._config.size_px,
                biome=world.biome,
                season=world.season,
                haze=world.haze,
            )
        return LabelledChip(reflectance, self._channel[codes])


def open_sources(config: SourceConfig, asked: Legend, classes: Legend) -> list[Source]:
    """Opens what a section of the evaluation file names: one source, or one per simulated world.

    Args:
        config: One source.
        asked: Classes that the model is asked for: those of simulated chips, chip folders and shards.
        classes: Classes that are compared: those of label polygons.

    Raises:
        ChipError: Files are missing or malformed.
        ConfigError: An unknown biome or data set.
    """
    if config.simulated is None:
        return [_open(config, asked, classes)]
    settings = config.simulated
    if not settings.worlds:
        last = settings.first_seed + settings.chips - 1
        return [
            Source(f"simulated, seeds {settings.first_seed} to {last}", Simulated(settings, asked), asked),
        ]
    return [Source(f"simulated, {w.name}", Simulated(settings, asked, w), asked) for w in _worlds(settings)]


def _worlds(config: SimulatedConfig) -> list[World]:
    from pipeline.simulation.biomes import BIOMES, RESERVED_BIOMES
    from pipeline.simulation.held_out import HELD_OUT_WORLDS

    if config.worlds == "held-out":
        return [World(w.name, w.first_seed, w.biome, w.season, w.haze) for w in HELD_OUT_WORLDS]
    biomes = {biome.name: biome for biome in (*BIOMES, *RESERVED_BIOMES)}
    worlds = []
    for entry in config.worlds:
        if entry.biome is not None and entry.biome not in biomes:
            raise ConfigError(f"the simulator has no biome {entry.biome!r}; it has {', '.join(sorted(biomes))}")
        name = f"{entry.biome or 'any biome'}, seeds from {entry.seed}"
        biome = None if entry.biome is None else biomes[entry.biome]
        worlds.append(World(name, entry.seed, biome, entry.season, entry.haze))
    return worlds


def _open(config: SourceConfig, asked: Legend, classes: Legend) -> Source:
    if config.chips is not None:
        return Source(f"chips {config.chips.folder.name}", _folder(config.chips, asked), asked)
    if config.shards is not None:
        return Source(f"shards {config.shards.folder.name}", _shards(config.shards, asked), asked)
    if config.raster is not None:
        from pipeline.evaluation.raster import open_raster

        return open_raster(config.raster, asked, classes)
    assert config.dataset is not None  # SourceConfig holds exactly one
    from pipeline.datasets import open_dataset

    found = open_dataset(config.dataset)
    count = config.dataset.count
    chosen = None
    if count is not None and count < len(found.chips):
        chosen = np.linspace(0, len(found.chips) - 1, count).round().astype(int).tolist()
    return Source(
        f"{found.dataset.title}, {found.split}",
        Labelled(found.chips, chosen=chosen),
        found.dataset.legend,
        found.sensor,
        found.gsd_m,
        dict(found.dataset.worldcover),
        found.dataset,
        chosen is None,
    )


def _folder(config: ChipsConfig, asked: Legend) -> Labelled:
    folder = ChipFolder(config.folder, asked)
    chosen = range(config.first, len(folder) if config.count is None else config.first + config.count)
    if not chosen or chosen[-1] >= len(folder):
        raise ChipError(f"{config.folder} holds {len(folder)} chips; 'first' and 'count' go beyond them")
    return Labelled(folder, config.min_confidence, chosen)


def _shards(config: ShardsConfig, asked: Legend) -> Labelled:
    from pipeline.spie.shards import ShardedChips

    chips = ShardedChips(config.folder, split=config.split)
    if chips.legend.codes != asked.codes:
        raise ConfigError(f"{config.folder} is labelled with legend {chips.legend.name!r}, asked for is {asked.name!r}")
    return Labelled(chips, config.min_confidence)
