from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.chips.chip_folder import ChipFolder
from pipeline.errors import ChipError
from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import SENTINEL2_BANDS
from spex_core.legend import Legend
from workflows.teacher_chips import TEACHER_CODES, Teacher, write_real
from workflows.teacher_colourings import FLOOR, Look, mixed, other_look, recoloured, with_colours_of
from workflows.teacher_scenes import RealScene, to_top_of_atmosphere

# A network of the teacher's interface that knows water from the rest by its near infrared.
NETWORK = """
import numpy as np
import torch
NORM = np.array([[2.0, 2.0]] * 9)
class DW(torch.nn.Module):
    def forward(self, x):
        dry = (x[:, 6:7] - 0.4) * 40
        logits = torch.full((len(x), 9, *x.shape[-2:]), -4.0)
        logits[:, 0:1], logits[:, 1:2] = -dry, dry
        return logits
"""


def scene(name: str, width: int = 300, seed: int = 0) -> RealScene:
    """Water in the west, forest in the east, a corner that was not observed."""
    rng = np.random.default_rng(seed)
    water = np.array([0.03, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.004], np.float32)
    forest = np.array([0.02, 0.04, 0.03, 0.08, 0.25, 0.31, 0.33, 0.34, 0.16, 0.08], np.float32)
    surface = np.broadcast_to(forest[:, None, None], (10, 260, width)).copy()
    surface[:, :, : width // 3] = water[:, None, None]
    surface += rng.normal(0, 0.002, surface.shape).astype(np.float32)
    observed = np.ones((260, width), bool)
    observed[:20, :20] = False
    return RealScene(name, surface, to_top_of_atmosphere(surface), observed)


@pytest.fixture
def teacher(tmp_path: Path, legend: Legend) -> Teacher:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "dynamic_world.py").write_text(NETWORK)
    return Teacher(tmp_path / "teacher", legend, "cpu")


@pytest.fixture(scope="module")
def legend() -> Legend:
    return Legend.from_yaml()


def look(number: int = 0) -> Look:
    made = scene("any", seed=number)
    return Look(torch.from_numpy(made.surface), torch.from_numpy(made.observed))


def test_chips_hold_the_teachers_labels_where_it_is_sure(tmp_path: Path, teacher: Teacher, legend: Legend) -> None:
    write_real(tmp_path / "real", [scene("small"), scene("wide", 640)], teacher, legend, looks=2)
    chips, held_out = ChipFolder(tmp_path / "real", legend), ChipFolder(tmp_path / "real-held-out", legend)
    assert len(chips) > 6
    assert len(held_out) == 2  # the eastern fifth of the wide scene, 128 columns
    reflectance, target, weight = chips.chip(0)
    assert reflectance.shape == (10, 256, 256)
    assert not weight[:20, :20].any()
    best = np.array(legend.codes)[target.argmax(0)]
    assert (best[100, :90] == 80).all()
    assert (best[100, 110:] == 10).all()
    np.testing.assert_allclose(target[:, 100].sum(0), 1, atol=0.02)
    assert held_out.chip(0)[2][:, 128:].sum() == 0
    assert not list((tmp_path / "real").glob("*.partial"))


def test_a_class_that_is_not_there_is_not_labelled(tmp_path: Path, teacher: Teacher, legend: Legend) -> None:
    desert = dataclasses.replace(scene("desert"), absent=(10,))
    write_real(tmp_path / "real", [desert], teacher, legend, looks=0)
    _, target, weight = ChipFolder(tmp_path / "real", legend).chip(0)
    assert target[legend.codes.index(10)].max() == 0
    assert weight[100, :90].all()


def test_places_for_evaluation_are_not_trained_on(tmp_path: Path, teacher: Teacher, legend: Legend) -> None:
    evaluated = dataclasses.replace(scene("kept"), place="terramind-examples/433D_629L_3_1")
    trained = dataclasses.replace(scene("taken", seed=1), place="eobrowser")
    write_real(tmp_path / "real", [evaluated, trained, scene("own", seed=2)], teacher, legend, looks=0)
    chips, held_out = ChipFolder(tmp_path / "real", legend), ChipFolder(tmp_path / "real-held-out", legend)
    assert len(held_out) == len(chips) // 2
    np.testing.assert_allclose(held_out.chip(0)[0][:, 100, 100], evaluated.surface[:, 100, 100], atol=1e-4)
    with pytest.raises(ChipError, match="not in the split"):
        write_real(tmp_path / "x", [dataclasses.replace(evaluated, place="atlantis")], teacher, legend, looks=0)


def test_looks_depend_on_seed_scene_and_number_alone(tmp_path: Path, teacher: Teacher, legend: Legend) -> None:
    scenes = [scene("one")]
    for name, looks in (("a", 2), ("b", 2), ("c", 4)):
        write_real(tmp_path / name, scenes, teacher, legend, looks=looks, seed=3)
    a, b, c = (ChipFolder(tmp_path / name, legend) for name in "abc")
    assert len(c) > len(a)
    for index in range(len(a)):
        np.testing.assert_array_equal(a.chip(index)[0], b.chip(index)[0])


def test_the_teacher_sees_top_of_atmosphere(teacher: Teacher) -> None:
    made = scene("any")
    surface = torch.from_numpy(made.surface)
    hazy = torch.from_numpy(made.top_of_atmosphere + np.float32(0.02))
    residual = teacher.residual(surface, hazy)
    torch.testing.assert_close(residual, torch.full_like(residual, 0.02), rtol=0, atol=1e-6)
    slope, offset = BOA_TO_TOA["B04"]
    band = SENTINEL2_BANDS.index("B04")
    np.testing.assert_allclose(made.top_of_atmosphere[band], made.surface[band] * slope + offset, rtol=1e-5)
    probability = teacher.probabilities(surface, residual)
    assert probability.shape == (9, 260, 300)
    assert len(TEACHER_CODES) == 9
    torch.testing.assert_close(probability.sum(0), torch.ones(260, 300))


def test_colours_move_to_those_of_another_scene() -> None:
    one, other = look(), look(1)
    other = Look(other.surface * 1.5, other.observed)
    there = with_colours_of(one, other, 1.0)
    seen = there.observed
    moved = there.surface[:, seen].clamp_min(FLOOR).log().mean(1) - other.surface[:, seen].clamp_min(FLOOR).log().mean(
        1
    )
    assert moved.abs().max() < 0.1
    torch.testing.assert_close(with_colours_of(one, other, 0.0).surface, one.surface)


def test_a_mixture_lies_between_its_scenes_and_is_seen_where_both_are() -> None:
    one, other = look(), look(1)
    blend = mixed(one, other, 0.3, np.random.default_rng(0))
    assert blend.surface.shape == one.surface.shape
    assert not blend.same_place
    assert not (blend.observed & ~one.observed).any()
    low, high = one.surface.amin() + other.surface.amin(), torch.maximum(one.surface.amax(), other.surface.amax())
    assert blend.surface.min() >= low
    assert blend.surface.max() <= high


@pytest.mark.parametrize("seed", range(12))
def test_every_look_is_reflectance_of_the_same_size(seed: int) -> None:
    one = look()
    classes = (one.surface[6] > 0.1).long()
    made = other_look(one, classes, [look(1), look(2)], np.random.default_rng(seed))
    assert made.surface.shape == one.surface.shape
    assert torch.isfinite(made.surface).all()
    assert made.surface.max() < 2.1
    again = other_look(one, classes, [look(1), look(2)], np.random.default_rng(seed))
    assert torch.equal(made.surface, again.surface)


def test_classes_change_apart() -> None:
    one = look()
    classes = (one.surface[6] > 0.1).long()
    ratio = recoloured(one, classes, np.random.default_rng(1)).surface / one.surface
    assert (ratio[6, 100, 20] - ratio[6, 100, 250]).abs() > 0.01
