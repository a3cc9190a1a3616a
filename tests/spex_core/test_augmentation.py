from __future__ import annotations

import numpy as np
import torch

from spex_core.augmentation import augment
from spex_core.legend import Legend
from tests.spex_core.test_training import TwoHalves


def test_pixels_and_labels_move_together(tiles: torch.Tensor, legend: Legend) -> None:
    chip = TwoHalves(tiles, legend).chip(0)
    for seed in range(40):
        view = augment(chip, 32, np.random.default_rng(seed), subsets=0.0)
        assert view.reflectance.shape == (10, 32, 32)
        vegetated = view.reflectance[6] > 0.15
        trees = view.target[legend.codes.index(10)]
        clear = (view.weight > 0) & ((trees < 0.1) | (trees > 0.9))  # larger pixels mix at the border
        assert (vegetated == (trees > 0.5))[clear].mean() > 0.97, seed


def test_the_source_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    chip = (np.full((10, 32, 32), 0.2, np.float32), np.ones((1, 32, 32), np.float32), np.ones((32, 32), np.float32))
    for _ in range(200):
        augment(chip, 32, rng)
    assert chip[2].all()
    assert np.all(chip[0] == np.float32(0.2))


def test_views_lose_whole_bands_but_never_all(tiles: torch.Tensor, legend: Legend) -> None:
    reflectance, target, weight = TwoHalves(tiles, legend).chip(0)
    reflectance = reflectance.copy()
    reflectance[[3, 4, 5, 7, 8, 9]] = np.nan  # a sensor with four bands
    counts = set()
    for seed in range(60):
        view = augment((reflectance, target, weight), 32, np.random.default_rng(seed), subsets=0.7)
        missing = np.isnan(view.reflectance)
        assert np.array_equal(missing.all((1, 2)), missing.any((1, 2)))
        counts.add(int((~missing[:, 0, 0]).sum()))
    assert 4 in counts
    assert min(counts) >= 1
    assert len(counts) > 1


def test_larger_pixels_say_so(tiles: torch.Tensor, legend: Legend) -> None:
    chip = TwoHalves(tiles, legend).chip(0)
    views = [augment(chip, 32, np.random.default_rng(seed)) for seed in range(60)]
    assert {view.pixel_m for view in views} == {10.0, 20.0, 30.0}
    for view in views:
        assert view.gsd_m.min() == view.pixel_m
        assert view.gsd_m.max() == max(20.0, view.pixel_m)
