"""Worlds set aside for evaluation stay apart from training, and hold all classes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.simulation import HELD_OUT_WORLDS
from pipeline.simulation.biomes import BIOMES, RESERVED_BIOMES, varied_biome
from pipeline.simulation.held_out import CHIPS_PER_WORLD, FIRST_TRAINING_SEED
from spex_core.legend import Legend


def test_seeds_and_reserved_climates_are_not_those_of_training() -> None:
    seeds = sorted(world.first_seed for world in HELD_OUT_WORLDS)
    assert len(seeds) == 6
    assert seeds[0] >= 1000
    assert seeds[-1] + CHIPS_PER_WORLD <= FIRST_TRAINING_SEED
    assert min(np.diff(seeds)) >= CHIPS_PER_WORLD
    reserved = {biome.name for biome in RESERVED_BIOMES}
    assert len({world.biome.name for world in HELD_OUT_WORLDS} & reserved) >= 2
    drawn = {varied_biome(np.random.default_rng(seed)).name for seed in range(300)}
    assert drawn == {biome.name for biome in BIOMES}
    assert not drawn & reserved


def test_a_training_folder_starts_at_the_first_training_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    from workflows import training_chips

    seen: list[int] = []
    monkeypatch.setattr(training_chips, "write_simulated", lambda folder, count, first_seed: seen.append(first_seed))
    monkeypatch.setattr("sys.argv", ["training_chips", "chips"])
    training_chips.main()
    assert seen == [FIRST_TRAINING_SEED]


def test_the_worlds_together_hold_every_class() -> None:
    share = np.zeros(256)
    for world in HELD_OUT_WORLDS:
        for index in range(5):
            share += np.bincount(world.chip(index, 96)[1].ravel(), minlength=256) / 96**2 / 30
    for code in Legend.from_yaml().codes:
        assert share[code] > 0.003, f"class {code} has share {share[code]:.4f}"


def test_a_chip_of_another_world_is_not_borrowed() -> None:
    with pytest.raises(IndexError, match="chips 0 to 999"):
        HELD_OUT_WORLDS[0].chip(CHIPS_PER_WORLD)
