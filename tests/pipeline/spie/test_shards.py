"""Shards are plain tar files with an index; what is damaged is told, never trained on."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ShardError
from pipeline.spie.chip import MISSING, chip_members, decode_reflectance, encode_reflectance
from pipeline.spie.shards import ChipIndex, ShardedChips, ShardWriter, write_index
from spex_core.bands import SENTINEL2_BANDS
from spex_core.errors import SpexError
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()
SIZE = 32


def members(number: int, **changes: bytes) -> dict[str, bytes]:
    rng = np.random.default_rng(number)
    reflectance = rng.uniform(0.0, 0.5, (10, SIZE, SIZE)).astype(np.float32)
    reflectance[3] = np.nan
    codes = rng.choice(np.array([0, 10, 80], np.uint8), (SIZE, SIZE))
    observed = np.ones((SIZE, SIZE), bool)
    observed[:4] = False
    stored = encode_reflectance(reflectance)
    return {**chip_members(f"chip-{number}", stored, codes, observed, LEGEND, {"dates": []}, 0), **changes}


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_set(folder: Path, chips: dict[str, list[dict[str, bytes]]]) -> Path:
    shards = []
    for split, contents in chips.items():
        writer = ShardWriter(folder / f"{split}-000000.tar")
        for number, content in enumerate(contents):
            writer.add(f"chip-{number}", content)
        shards.append(writer.finish(split))  # type: ignore[arg-type]
    index = ChipIndex(
        build="test",
        size_px=SIZE,
        bands=SENTINEL2_BANDS,
        legend=LEGEND.to_dict(),
        incomplete=False,
        shards=tuple(shards),
    )
    write_index(folder, index)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path, {"train": [members(0), members(1)], "validation": [members(2)]})


def test_any_tar_reader_finds_the_same_files_as_the_index(folder: Path) -> None:
    chips = ShardedChips(folder, split="train")
    with tarfile.open(folder / "train-000000.tar") as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert found == {f"chip-{i}.{ending}": content for i in range(2) for ending, content in members(i).items()}
    assert (folder / "train-000000.tar").stat().st_size % 10_240 == 0
    assert [chips.key(i) for i in range(len(chips))] == ["chip-0", "chip-1"]
    assert chips.record(1) == json.loads(found["chip-1.json"])


def test_a_chip_is_what_was_put_in(folder: Path) -> None:
    chips = ShardedChips(folder, split="validation")
    reflectance, target, weight = chips.chip(0)
    stored = np.load(io.BytesIO(members(2)["reflectance.npy"]))
    codes = np.load(io.BytesIO(members(2)["label.npy"]))
    assert [a.dtype for a in (reflectance, target, weight)] == [np.float32] * 3
    assert (stored[3] == MISSING).all()
    assert np.isnan(reflectance[3]).all()
    assert np.array_equal(reflectance, decode_reflectance(stored), equal_nan=True)
    assert target.shape == (9, SIZE, SIZE)
    assert np.array_equal(target[7] == 1, codes == 80)
    assert (weight[:4] == 0).all()
    assert np.array_equal(weight[4:] == 1, codes[4:] != 0)


def test_splits_are_apart_and_together_all(folder: Path) -> None:
    assert [len(ShardedChips(folder, split=split)) for split in ("train", "validation", None)] == [2, 1, 3]  # type: ignore[arg-type]


def test_classes_that_a_legend_lacks_have_no_weight(folder: Path) -> None:
    water = Legend("water", "Water", (LEGEND.classes[7],))
    _, target, weight = ShardedChips(folder, legend=water).chip(0)
    assert target.shape == (1, SIZE, SIZE)
    assert np.array_equal(weight[4:], target[0, 4:])
    assert 0 < weight.mean() < 1


def test_soft_labels_are_read_where_there_are_some(tmp_path: Path) -> None:
    soft = np.zeros((9, SIZE, SIZE), np.uint8)
    soft[0], soft[1] = 51, 204
    content = members(0) | {"probability.npy": npy(soft)}
    del content["label.npy"]
    _, target, _ = ShardedChips(write_set(tmp_path, {"train": [content]})).chip(0)
    assert np.allclose(target[:2, 0, 0], [0.2, 0.8])


def test_the_reader_survives_pickling(folder: Path) -> None:
    chips = pickle.loads(pickle.dumps(ShardedChips(folder)))  # noqa: S301  # our own bytes
    assert chips.chip(2)[1].shape == (9, SIZE, SIZE)


def test_a_truncated_shard_is_told_before_anything_is_read(folder: Path) -> None:
    shard = folder / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ShardError, match=r"train-000000\.tar has .* its index says"):
        ShardedChips(folder)
    assert len(ShardedChips(folder, split="validation")) == 1


def test_a_missing_shard_is_told(folder: Path) -> None:
    (folder / "train-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000000\.tar cannot be read"):
        ShardedChips(folder)


def test_one_flipped_bit_is_told_with_chip_and_file(folder: Path) -> None:
    shard = folder / "train-000000.tar"
    index = json.loads((folder / "index.json").read_text())
    member = index["shards"][0]["chips"][1]["members"]["reflectance.npy"]
    content = bytearray(shard.read_bytes())
    content[member["offset"] + member["size"] - 5] ^= 1
    shard.write_bytes(content)
    chips = ShardedChips(folder)
    chips.chip(0)
    with pytest.raises(ShardError, match=r"chip chip-1, reflectance\.npy is damaged"):
        chips.chip(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": 10**12}, "ends beyond its shard"),
        ({"offset": -1}, "index.json is damaged at shards.0.chips.0.members.reflectance.npy.offset"),
        ({"size": 100}, "is damaged"),
    ],
)
def test_an_index_that_points_elsewhere_is_told(folder: Path, change: dict[str, int], words: str) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["chips"][0]["members"]["reflectance.npy"] |= change
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ShardError, match=words.replace(".", r"\.")):
        ShardedChips(folder).chip(0)


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/passwd", "a/b.tar"])
def test_an_index_cannot_name_files_outside_its_folder(folder: Path, name: str) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["name"] = name
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ShardError, match="name"):
        ShardedChips(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "other"}', "\x00"])
def test_what_is_no_index_is_told(folder: Path, text: str) -> None:
    (folder / "index.json").write_text(text)
    with pytest.raises(SpexError, match=r"index\.json"):
        ShardedChips(folder)


def test_a_folder_without_index_is_told(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="not finished"):
        ShardedChips(tmp_path)


@pytest.mark.parametrize(
    "array", [np.zeros((10, SIZE, SIZE), np.float32), np.zeros((9, SIZE, SIZE), np.int16), np.array([{}])]
)
def test_arrays_of_another_kind_are_told(tmp_path: Path, array: Any) -> None:
    folder = write_set(tmp_path, {"train": [members(0, **{"reflectance.npy": npy(array)})]})
    with pytest.raises(ShardError, match=r"reflectance\.npy is (not an array|float32|int16)"):
        ShardedChips(folder).chip(0)


def test_attributes_do_not_see_the_labels() -> None:
    rng = np.random.default_rng(5)
    stored = encode_reflectance(rng.uniform(0.0, 0.5, (10, SIZE, SIZE)).astype(np.float32))
    observed = np.ones((SIZE, SIZE), bool)
    records = [
        json.loads(chip_members("k", stored, np.full((SIZE, SIZE), code, np.uint8), observed, LEGEND, {}, 0)["json"])
        for code in (10, 80)
    ]
    assert records[0]["attributes"] == records[1]["attributes"]
    assert records[0]["answers"] != records[1]["answers"]


def test_reflectance_keeps_four_decimals_and_its_gaps() -> None:
    values = np.array([0.0, 0.12345, 1.5, -0.02, 9.0, np.nan], np.float32)
    back = decode_reflectance(encode_reflectance(values))
    assert np.allclose(back[:4], values[:4], atol=0.51e-4)
    assert back[4] == np.float32(3.2767)
    assert np.isnan(back[5])
