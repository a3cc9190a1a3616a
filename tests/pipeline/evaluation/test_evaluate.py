"""Whole evaluations: every row on the same chips, what the table says, what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from pipeline.commands.cli import main
from pipeline.commands.evaluation_screen import show_evaluation
from pipeline.errors import BadInputError, ConfigError
from pipeline.evaluation import EvaluationConfig, evaluate
from pipeline.evaluation.asking import ask, model_image, questions
from pipeline.evaluation.chips import LabelledChip
from pipeline.evaluation.config import ForestConfig
from pipeline.evaluation.forest import Forest, sample_pixels
from pipeline.evaluation.rules import rule_scores
from pipeline.machine.progress import LogProgress
from pipeline.simulation.held_out import FIRST_TRAINING_SEED, HELD_OUT_WORLDS
from pipeline.spie.shards import ShardedChips
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover
from spex_core.priors import index_scores
from tests.pipeline.spie.test_shards import members, write_set
from tests.spex_core.conftest import build_tiny_model

LEGEND = Legend.from_yaml()
SIMULATED = {"simulated": {"chips": 3, "size_px": 64}}


@pytest.fixture(scope="module")
def model() -> SpexForLandCover:
    return build_tiny_model(LEGEND, band_encoding=True)


@pytest.fixture(scope="module")
def checkpoint(model: SpexForLandCover, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return folder


def measured(**settings: Any) -> Any:
    data = {"name": "test", "checkpoint": "index-rules", "sources": [SIMULATED], **settings}
    return evaluate(EvaluationConfig.from_dict(data), LogProgress())


class Chips:
    """Chips given one by one."""

    def __init__(self, *chips: LabelledChip) -> None:
        self._chips = chips

    def __len__(self) -> int:
        return len(self._chips)

    def chip(self, index: int) -> LabelledChip:
        return self._chips[index]


def test_all_rows_are_measured_on_the_same_pixels(checkpoint: Path) -> None:
    training = {"simulated": {"chips": 3, "size_px": 64, "first_seed": 10_000}}
    result = measured(
        checkpoint=str(checkpoint), training=[training], forest={"trees": 5, "pixels_per_class": 50}, texts=1
    )
    assert list(result.rows) == ["model", "shuffled", "none", "index_rules", "forest"]
    assert {int(row.assessment.reference.sum()) for row in result.rows.values()} == {3 * 64 * 64}
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["rows"]["model"]["classes"]["Water"].keys() >= {"iou", "f1", "precision", "recall", "boundary_f1"}
    assert "points of mean IoU" in document["attributes"]["verdict"]
    console = Console(width=160, record=True, file=io.StringIO())
    show_evaluation(result, console)
    text = console.export_text()
    for words in ("random forest", "attributes of another chip", "no attributes", "index rules only", "Attributes"):
        assert words in text


def test_attributes_change_the_prompts_of_their_row_only(model: SpexForLandCover) -> None:
    from pipeline.simulation import simulate_chip

    image = model_image(simulate_chip(900_000, 64)[0])
    assert image is not None
    true, without = (questions(model, image, LEGEND, which) for which in ("measured", "none"))
    assert all(prompt.endswith(":[]") for prompt in without)
    assert any("Centroid" in prompt for prompt in true)


def test_a_subset_of_bands_is_all_that_any_row_sees(checkpoint: Path) -> None:
    small = {"chips": 2, "size_px": 32}
    settings = {
        "checkpoint": str(checkpoint),
        "sources": [{"simulated": small}],
        "training": [{"simulated": {**small, "first_seed": 10_000}}],
        "forest": {"trees": 3, "pixels_per_class": 30},
    }
    ten, four = measured(**settings), measured(**settings, bands="rgb-nir")
    for row in ten.rows:
        assert (ten.rows[row].assessment.confusion != four.rows[row].assessment.confusion).any(), row


def test_a_checkpoint_without_band_encoding_is_not_asked_with_a_subset(tmp_path: Path) -> None:
    build_tiny_model(LEGEND).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="band_encoding"):
        measured(checkpoint=str(tmp_path), bands=["B02", "B03", "B04"])


def test_odd_sides_gaps_and_missing_bands_reach_the_model_whole(model: SpexForLandCover) -> None:
    rng = np.random.default_rng(0)
    reflectance = rng.uniform(0.02, 0.4, (10, 50, 70)).astype(np.float32)
    reflectance[9] = np.nan
    reflectance[:, 3, 4] = np.nan
    image = model_image(reflectance)
    assert image is not None
    assert image.pixels.shape == (9, 64, 96)
    assert np.isfinite(image.pixels).all()
    scores, texts, _ = ask(model, image, LEGEND, questions(model, image, LEGEND, "measured"))
    assert scores.shape == (9, 50, 70)
    assert scores.sum(0) == pytest.approx(np.ones((50, 70)), abs=1e-4)
    assert texts == []
    assert model_image(np.full((10, 8, 8), np.nan, np.float32)) is None


def test_index_rules_equal_the_baseline_where_all_bands_are_there() -> None:
    reflectance = np.random.default_rng(1).uniform(0.02, 0.4, (10, 8, 8)).astype(np.float32)
    assert rule_scores(reflectance, LEGEND) == pytest.approx(index_scores(reflectance, LEGEND), abs=1e-6)
    reflectance[8:] = np.nan
    assert np.isfinite(rule_scores(reflectance, LEGEND)).all()


def test_the_forest_learns_from_a_balanced_seeded_sample() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 40), np.int16)
    labels[:2] = 1  # a twentieth of the chip
    labels[39] = -1
    reflectance = np.where(labels == 1, 0.4, 0.1)[None].repeat(10, 0) + rng.normal(0, 0.01, (10, 40, 40))
    chips = Chips(LabelledChip(reflectance.astype(np.float32), labels))
    config = ForestConfig(trees=5, pixels_per_class=60, min_leaf=1)
    pixels, classes = sample_pixels(chips, 3, config, seed=3)
    assert np.bincount(classes).tolist() == [60, 60]
    assert (pixels == sample_pixels(chips, 3, config, seed=3)[0]).all()
    three = Legend("three", "Three", LEGEND.classes[:3])
    forest = Forest(chips, three, np.arange(10) < 4, config, seed=0)
    scores = forest.scores(chips.chip(0).reflectance)
    assert scores.sum(0) == pytest.approx(np.ones((40, 40)), abs=1e-5)
    assert (scores.argmax(0) == labels)[labels >= 0].all()
    assert not scores[2].any()  # a class that was never seen


def test_labels_of_a_doubtful_teacher_are_not_compared(tmp_path: Path) -> None:
    target = np.zeros((1, 9, 32, 32), np.uint8)
    target[0, 0, :16] = 255
    target[0, 1, 16:] = 102  # 0.4
    np.save(tmp_path / "target.npy", target)
    np.save(tmp_path / "reflectance.npy", np.full((1, 10, 32, 32), 1000, np.int16))
    np.save(tmp_path / "weight.npy", np.ones((1, 32, 32), np.uint8))
    result = measured(sources=[{"chips": {"folder": str(tmp_path), "min_confidence": 0.5}}])
    assert result.rows["index_rules"].assessment.reference.tolist()[:2] == [16 * 32, 0]


def test_data_sets_of_spex_spie_are_compared_split_by_split(tmp_path: Path) -> None:
    write_set(tmp_path, {"train": [members(0), members(1)], "validation": [members(2)]})
    sizes = {}
    for split in ("train", "validation", None):
        result = measured(sources=[{"shards": {"folder": str(tmp_path), "split": split}}])
        sizes[split] = int(result.rows["index_rules"].assessment.reference.sum())
    assert sizes[None] == sizes["train"] + sizes["validation"]
    labels = ShardedChips(tmp_path, split="validation").chip(0)[2]
    assert sizes["validation"] == int((labels > 0).sum())


def test_worlds_of_other_seeds_and_biomes_are_other_chips_and_are_told_apart() -> None:
    worlds = [{"seed": 950, "biome": "boreal"}, {"seed": 951, "biome": "arid", "season": 0.5}]
    result = measured(sources=[{"simulated": {"worlds": worlds, "chips": 1, "size_px": 64}}])
    first, second = (source.rows["index_rules"].assessment.confusion for source in result.sources)
    assert (first != second).any()
    assert (first + second == result.rows["index_rules"].assessment.confusion).all()
    mean = np.mean([source.rows["index_rules"].assessment.miou for source in result.sources])
    assert result.mean_over_sources()["index_rules"][1] == pytest.approx(mean)
    with pytest.raises(BadInputError, match="no biome 'moon'"):
        measured(sources=[{"simulated": {"worlds": [{"seed": 1, "biome": "moon"}]}}])


def test_held_out_worlds_have_no_seed_of_training() -> None:
    result = measured(sources=[{"simulated": {"worlds": "held-out", "chips": 1, "size_px": 32}}])
    assert [source.name for source in result.sources] == [f"simulated, {world.name}" for world in HELD_OUT_WORLDS]
    assert max(world.first_seed for world in HELD_OUT_WORLDS) < FIRST_TRAINING_SEED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [{"simulated": {}, "chips": {"folder": "x"}}]}, "exactly one"),
        ({"bands": ["B99"]}, "B99"),
        ({"groups": {"a": [10], "b": [10]}}, "two groups"),
        ({"sources": [{"chips": {"folder": "missing"}}]}, "missing/reflectance.npy"),
        ({"groups": {"water": [99]}}, "99"),
        ({"training": [{"simulated": {"first_seed": 899_990, "chips": 11}}]}, "also under 'training'"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "evaluation.yaml"
    data = {"name": "test", "checkpoint": "index-rules", "sources": [SIMULATED], **change}
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(file)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "evaluation.yaml"
    file.write_text(yaml.safe_dump({"name": "test", "checkpoint": "index-rules", "sources": [SIMULATED]}))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(file), "--json", "--output", str(tmp_path / "figures.json")])
    assert ended.value.code == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["rows"].keys() == {"index_rules"}
    assert json.loads((tmp_path / "figures.json").read_text()) == last


def test_example_files_are_valid() -> None:
    folder = Path(__file__).parents[3] / "workflows" / "examples"
    found = sorted(folder.glob("evaluate_*.yaml"))
    assert found
    for path in found:
        assert EvaluationConfig.from_yaml(path).sources
