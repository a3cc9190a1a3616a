"""Device, precision and compiling are decided from the run file; checkpoints that do not fit are refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.submit import submit_run
from pipeline.errors import ClusterError, ConfigError
from pipeline.planning.blocks import plan_blocks
from pipeline.records.plan import ZoneGrid
from pipeline.settings.model import (
    COMPILING_PAYS_TILES,
    INDEX_RULES,
    TILES_PER_FORWARD,
    check_device,
    check_model,
    compiles,
    device_for,
    device_kind,
    gpu_number,
    precision_for,
)
from pipeline.settings.run_file import ComputeConfig, ModelConfig, RunConfig, TilingConfig
from spex_core.bands import SENTINEL2_BANDS
from spex_core.errors import CheckpointError
from tests.pipeline.small_plans import run_config


def test_devices() -> None:
    assert device_for(ModelConfig(), 0.0) == "cpu"
    assert device_for(ModelConfig(), 0.5) == "cuda"
    assert device_for(ModelConfig(device="cpu"), 1.0) == "cpu"
    with pytest.raises(ConfigError, match="gpus_per_actor"):
        device_for(ModelConfig(device="cuda:0"), 0.0)
    assert device_for(ModelConfig(device="cuda:1"), 1.0) == "cuda", "an actor sees the GPU that it is lent as its first"
    assert [gpu_number(ModelConfig(device=d)) for d in ("auto", "cpu", "cuda", "cuda:0", "cuda:11")] == [
        *(None, None, None, 0, 11)
    ]
    assert [device_kind(ModelConfig(device=d), 1.0) for d in ("auto", "cpu", "cuda:1")] == ["cuda", "cpu", "cuda"]


def test_a_gpu_by_its_number_is_for_runs_on_this_machine() -> None:
    model = ModelConfig(device="cuda:1")
    check_device(model, ComputeConfig(gpus_per_actor=0.5))
    check_device(ModelConfig(device="cuda"), ComputeConfig(gpus_per_actor=2, address="auto"))
    with pytest.raises(ConfigError, match=r"set compute\.gpus_per_actor to 1 as well"):
        check_device(model, ComputeConfig())
    with pytest.raises(ConfigError, match="on a cluster Ray chooses the GPU of each actor: set it to cuda"):
        check_device(model, ComputeConfig(gpus_per_actor=1, address="auto"))
    with pytest.raises(ConfigError, match="each actor takes 2 GPUs"):
        check_device(model, ComputeConfig(gpus_per_actor=2))
    settings = {"model": {"device": "cuda:1"}, "compute": {"gpus_per_actor": 1}}
    with pytest.raises(ConfigError, match="on a cluster Ray chooses"):
        submit_run(run_config(**settings), Path("run.yaml"), "http://127.0.0.1:9")


def test_blocks_of_the_default_size_fill_the_passes_of_a_gpu() -> None:
    """A pass that is never full is never the compiled one."""
    blocks = plan_blocks(ZoneGrid(32632, 0.0, 0.0, 10.0, 5000, 5000), TilingConfig(), None)
    assert max(len(block.tiles) for block in blocks) == TILES_PER_FORWARD["cuda"]
    assert sum(len(block.tiles) == TILES_PER_FORWARD["cuda"] for block in blocks) > len(blocks) / 2


def test_a_bare_off_in_yaml_is_off(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for written, meant in (("off", "off"), ("on", "on"), ("auto", "auto"), ("'off'", "off")):
        file.write_text(
            f"name: x\nregion: r.geojson\nstart: 2026-01-01\nend: 2026-02-01\nmodel: {{compile: {written}}}\n"
        )
        assert RunConfig.from_yaml(file).model.compile == meant


def test_bfloat16_is_for_gpus_unless_asked_for() -> None:
    assert precision_for(ModelConfig(), "cpu") == "float32"
    assert precision_for(ModelConfig(), "cuda") == "bfloat16"
    assert precision_for(ModelConfig(precision="bfloat16"), "cpu") == "bfloat16"
    assert precision_for(ModelConfig(precision="float32"), "cuda") == "float32"


def test_compiling_by_itself_is_for_gpus_with_much_to_do() -> None:
    assert compiles(ModelConfig(), "cuda", COMPILING_PAYS_TILES)
    assert not compiles(ModelConfig(), "cuda", COMPILING_PAYS_TILES - 1)
    assert not compiles(ModelConfig(), "cpu", 10 * COMPILING_PAYS_TILES)
    assert compiles(ModelConfig(compile="on"), "cpu", 1)
    assert not compiles(ModelConfig(compile="off"), "cuda", COMPILING_PAYS_TILES)


def checkpoint(folder: Path, *, tokenizer: bool = True, **config: Any) -> ModelConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "spex", **config}))
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    return ModelConfig(checkpoint=str(folder))


def test_checkpoints_for_the_bands_of_a_run_pass(tmp_path: Path) -> None:
    check_model(ModelConfig())
    check_model(ModelConfig(checkpoint=INDEX_RULES))
    check_model(checkpoint(tmp_path / "default"))
    check_model(checkpoint(tmp_path / "spelled", bands=list(SENTINEL2_BANDS)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"bands": ["red", "green", "nir"]}, "takes 3 bands .red green nir., but the run reads 10 .B02"),
        ({"bands": list(SENTINEL2_BANDS[::-1])}, "takes 10 bands .B12"),
        ({"bands": 7}, "takes 1 bands"),
        ({"tokenizer": False}, "no processor"),
        ({"model_type": "qwen2"}, "type 'qwen2', not 'spex'.*convert-checkpoint"),
    ],
    ids=["three bands", "order", "no list", "no processor", "not converted"],
)
def test_a_checkpoint_that_does_not_fit_is_named_with_the_mend(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        check_model(checkpoint(tmp_path, **config))


def test_fewer_bands_need_a_model_that_was_trained_for_them(tmp_path: Path) -> None:
    few = ("B02", "B03", "B04", "B08")
    check_model(checkpoint(tmp_path / "any", band_encoding=True), few)
    with pytest.raises(CheckpointError, match=r"needs all of its bands.*reads B02 B03 B04 B08.*band_encoding"):
        check_model(checkpoint(tmp_path / "ten"), few)
    with pytest.raises(CheckpointError, match="index-rules needs the ten bands"):
        check_model(ModelConfig(checkpoint=INDEX_RULES), few)


@pytest.mark.parametrize("text", ["", "[1]", "\xff", '{"model_type": ["spex"]}'])
def test_a_damaged_configuration_is_a_checkpoint_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        check_model(ModelConfig(checkpoint=str(tmp_path)))


def submitted(model: ModelConfig) -> RunConfig:
    return run_config().model_copy(update={"model": model})


def test_submit_refuses_before_it_looks_for_the_cluster(tmp_path: Path) -> None:
    three = submitted(checkpoint(tmp_path, bands=["red", "green", "nir"]))
    with pytest.raises(CheckpointError, match="3 bands"):
        submit_run(three, tmp_path / "run.yaml", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="built in"):
        submit_run(submitted(ModelConfig(checkpoint="spex-s3")), tmp_path / "run.yaml", "http://127.0.0.1:9")


def test_submit_leaves_a_folder_that_only_the_cluster_sees_to_the_cluster(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot be submitted"):
        submit_run(submitted(ModelConfig(checkpoint="/on/the/cluster")), tmp_path / "run.yaml", "http://127.0.0.1:9")
