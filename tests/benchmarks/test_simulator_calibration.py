"""The distance between simulated and real chips is zero for equal ones and grows with what differs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.simulator_calibration import distance, main, statistics
from spex_core.bands import BANDS
from spex_core.legend import Legend


def _chips(texture: float, brightness: float = 0.3, sigma: float = 0.0) -> list[tuple[np.ndarray, np.ndarray]]:
    chips = []
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, texture, (len(BANDS), 64, 64))
        if sigma:
            noise = ndimage.gaussian_filter(noise, (0, sigma, sigma))
        chips.append(((brightness * (1 + noise)).astype(np.float32), np.zeros((64, 64), np.int16)))
    return chips


def test_equal_chips_are_at_no_distance_and_a_factor_of_two_is_its_logarithm() -> None:
    plain = statistics(iter(_chips(0.05)), 2)
    assert set(plain) == {0}
    assert distance(plain[0], plain[0]).texture == 0.0
    rough = statistics(iter(_chips(0.10)), 2)[0]
    assert distance(rough, plain[0]).texture == pytest.approx(np.log(2), abs=0.02)
    bright = distance(statistics(iter(_chips(0.05, 0.6)), 1)[0], plain[0])
    assert bright.spectrum == pytest.approx(np.log(2), abs=0.01)
    assert bright.texture < 0.01
    smooth = distance(statistics(iter(_chips(0.05, sigma=2.0)), 1)[0], plain[0])
    assert smooth.autocorrelation > 0.3


def test_classes_with_few_pixels_or_few_chips_are_left_out() -> None:
    chips = _chips(0.05)
    chips[0][1][:8, :8] = 1
    assert set(statistics(iter(chips), 2)) == {0}


def test_the_table_of_two_folders_and_of_chips_drawn_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    legend = Legend.from_yaml()
    for name, texture in (("real", 0.05), ("simulated", 0.10)):
        folder = tmp_path / name
        folder.mkdir()
        chips = _chips(texture)
        np.save(folder / "reflectance.npy", np.stack([r * 10_000 for r, _ in chips]).astype(np.int16))
        np.save(folder / "codes.npy", np.full((3, 64, 64), legend.codes[0], np.uint8))
        np.save(folder / "weight.npy", np.ones((3, 64, 64), np.uint8))
    main([str(tmp_path / "real"), str(tmp_path / "simulated"), "--simulate", "4"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) == {"simulated", "drawn now"}
    assert report["simulated"]["mean"]["texture"] == pytest.approx(np.log(2), abs=0.03)
