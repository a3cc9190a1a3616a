"""A public data set becomes a chip folder that training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.chips.chip_folder import ChipFolder
from pipeline.datasets import open_dataset
from pipeline.datasets.config import DatasetConfig
from spex_core.legend import Legend
from tests.pipeline.datasets.test_datasets import dfc2020_bench, sen1floods11, spacenet2
from workflows.dataset_chips import main


def test_chips_and_legend_are_those_of_the_data_set(tmp_path: Path) -> None:
    sen1floods11(tmp_path / "data")
    output = tmp_path / "chips"
    assert main([str(output), "--dataset", "sen1floods11", "--root", str(tmp_path / "data"), "--split", "test"]) == 0
    legend = Legend.from_yaml(output / "legend.yaml")
    source = open_dataset(DatasetConfig(name="sen1floods11", root=tmp_path / "data", split="test"))
    assert legend == source.dataset.legend
    chips = ChipFolder(output, legend)
    assert len(chips) == 2
    for one, other in zip(chips.chip(1), source.chips.chip(1), strict=True):
        assert one == pytest.approx(other, abs=1e-4, nan_ok=True)


def test_chips_are_cut_to_a_size_that_the_model_takes(tmp_path: Path) -> None:
    spacenet2(tmp_path / "data")
    output = tmp_path / "chips"
    arguments = [str(output), "--dataset", "spacenet2", "--root", str(tmp_path / "data"), "--option", "city=vegas"]
    assert main(arguments) == 0
    reflectance, target, weight = ChipFolder(output, Legend.from_yaml(output / "legend.yaml")).chip(0)
    assert reflectance.shape == (10, 32, 32)
    assert np.isnan(reflectance[6]).all()
    assert target[1].sum() == 100
    assert weight.all()


def test_bad_input_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dfc2020_bench(tmp_path)
    common = [str(tmp_path / "out"), "--dataset", "dfc2020", "--root", str(tmp_path)]
    for extra, message in (
        (["--split", "train"], "dfc-train-new.csv"),
        (["--split", "test", "--size-px", "40"], "multiple of 32"),
        (["--split", "test", "--size-px", "64"], "no labelled chip of 64 px"),
        (["--split", "test", "--option", "colour"], "NAME=VALUE"),
    ):
        assert main([*common, *extra]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "codes.npy").exists()
