"""What an image costs: published checkpoints by their layout, all others by a constant."""

from __future__ import annotations

import pytest

from pipeline.planning.model_cost import _vision_flop, _vision_weights, model_cost, published_cost
from spex_core.configuration import SpexConfig
from tests.pipeline.small_plans import run_config

OFFICIAL = SpexConfig.official().to_dict()


def test_the_published_layout_is_counted_by_its_shapes() -> None:
    assert _vision_flop(OFFICIAL) == pytest.approx(388.8e9, rel=0.1)
    cost = published_cost(OFFICIAL, 1)
    weights = 4 * 1_778_308_322
    assert weights * 0.97 < cost.memory_bytes < weights * 1.2
    assert _vision_weights(OFFICIAL) == pytest.approx(222e6, rel=0.05)


def test_each_class_is_a_question_and_weights_are_read_for_sixteen_at_once() -> None:
    one, nine, seventeen = (published_cost(OFFICIAL, k) for k in (1, 9, 17))
    assert one.cpu_s < nine.cpu_s < 9 * one.cpu_s
    assert nine.gpu_s < seventeen.gpu_s
    assert one.memory_bytes < nine.memory_bytes < 2 * one.memory_bytes


def test_other_models_cost_by_their_pixels() -> None:
    small, large = (run_config(tiling={"tile_px": px}) for px in (256, 512))
    assert model_cost(large, 9).cpu_s == pytest.approx(4 * model_cost(small, 9).cpu_s)
    assert model_cost(large, 9).memory_bytes == 0
    assert published_cost(OFFICIAL, 9).cpu_s > 100 * model_cost(large, 9).cpu_s
