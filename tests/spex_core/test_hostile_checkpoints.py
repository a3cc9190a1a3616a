"""A checkpoint folder whose files ask for Python of its own: nothing is run, nobody is asked."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spex_core.errors import CheckpointError
from spex_core.modeling import SpexForLandCover
from spex_core.official import convert_checkpoint
from spex_core.processing import SpexProcessor
from tests.spex_core.published_state import random_state, tiny_published_config, write_published

AUTO_MAP: dict[str, Any] = {
    "AutoTokenizer": ["own_code.Own", "own_code.Own"],
    **dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "own_code.Own"),
}
MAPS: dict[str, Any] = {
    "of all kinds": AUTO_MAP,
    "of the old form": ["own_code.Own", None],
    "of another repository": {"AutoTokenizer": ["someone/else--own_code.Own", None]},
    "malformed": 3,
    "malformed inside": {"AutoTokenizer": 7},
}
TOKENIZER_FIELDS: tuple[dict[str, Any], ...] = (
    {},
    {"tokenizer_class": "Own"},
    {"tokenizer_class": None},
    {"tokenizer_class": "own_code.Own"},
)


@pytest.fixture(scope="module")
def clean(tiny_model: SpexForLandCover, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    tiny_model.save_pretrained(folder)
    return folder


@pytest.fixture
def hostile(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole checkpoint beside a module that leaves a mark when it is imported, and a terminal that says yes."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(clean, folder)
    bring_code(folder, tmp_path / "mark")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def bring_code(folder: Path, mark: Path) -> None:
    code = f"open({str(mark)!r}, 'w').close()\nclass Own:\n    from_pretrained = register_for_auto_class = print\n"
    (folder / "own_code.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)


def edit(path: Path, **fields: Any) -> None:
    document = json.loads(path.read_text()) if path.is_file() else {}
    document |= fields
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))


def attempt(load: Callable[[], Any], mark: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """The message of the one error that is allowed; None if it loaded."""
    message = None
    try:
        load()
    except CheckpointError as error:
        message = str(error)
    captured = capsys.readouterr()
    assert not mark.exists(), "code of the folder was run"
    assert "[y/N]" not in captured.out + captured.err
    assert message is None or ("[y/N]" not in message and "trust_remote_code" not in message)
    return message


@pytest.mark.parametrize("auto_map", MAPS)
@pytest.mark.parametrize("fields", TOKENIZER_FIELDS, ids=str)
def test_a_tokenizer_brings_no_code(
    auto_map: str, fields: dict[str, Any], hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(hostile / "tokenizer_config.json", auto_map=MAPS[auto_map], **fields)
    for load in (SpexForLandCover.from_pretrained, SpexProcessor.from_pretrained):
        said = attempt(lambda load=load: load(hostile), hostile.parent / "mark", capsys)  # type: ignore[misc]
        assert said is None or "tokenizer_config.json (auto_map)" in said


@pytest.mark.parametrize("auto_map", ["of all kinds", "malformed inside"])
@pytest.mark.parametrize(
    "files",
    [
        ("config.json",),
        ("processor_config.json",),
        ("preprocessor_config.json",),
        ("generation_config.json",),
        ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"),
    ],
    ids=",".join,
)
def test_no_other_file_brings_code(
    auto_map: str, files: tuple[str, ...], hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in files:
        edit(hostile / name, auto_map=MAPS[auto_map], processor_class="Own", image_processor_type="Own")
    said = attempt(lambda: SpexForLandCover.from_pretrained(hostile), hostile.parent / "mark", capsys)
    assert said is None or any(f"{name} (auto_map)" in said for name in files)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"model_type": "own", "auto_map": AUTO_MAP}),
        ("config.json", {"text_config": 3}),
        ("config.json", {"dtype": "own.code"}),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}),
        ("config.json", {"_attn_implementation": "someone/kernel"}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("processor_config.json", {"audio_tokenizer": {"audio_tokenizer_class": "Own"}}),
    ],
    ids=str,
)
def test_classes_and_kernels_from_elsewhere_are_no_way_in(
    name: str, fields: dict[str, Any], hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(hostile / name, **fields)
    said = attempt(lambda: SpexForLandCover.from_pretrained(hostile), hostile.parent / "mark", capsys)
    if "kernel" in str(fields):
        assert said is not None
        assert "someone/kernel" in said


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["[]", "null", "3", "{", '"text"'])
def test_a_file_that_is_no_object_is_a_checkpoint_error(name: str, content: str, hostile: Path) -> None:
    (hostile / name).write_text(content)
    with pytest.raises(CheckpointError, match="not a readable SPEX checkpoint"):
        SpexForLandCover.from_pretrained(hostile)


@pytest.mark.parametrize("fields", TOKENIZER_FIELDS, ids=str)
def test_a_published_folder_brings_no_code_into_its_conversion(
    fields: dict[str, Any], hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_published_config()
    source = write_published(tmp_path / "published", random_state(config), config)
    bring_code(source, tmp_path / "mark")
    edit(source / "config.json", auto_map=AUTO_MAP)
    edit(source / "tokenizer_config.json", auto_map=AUTO_MAP, **fields)
    said = attempt(lambda: convert_checkpoint(source, tmp_path / "ours"), tmp_path / "mark", capsys)
    assert said is None or "tokenizer_config.json (auto_map)" in said
    if said is None:
        attempt(lambda: SpexForLandCover.from_pretrained(tmp_path / "ours"), tmp_path / "mark", capsys)


def test_what_is_saved_again_is_what_was_loaded(clean: Path, tmp_path: Path) -> None:
    """Refusing code leaves no trace in the files."""
    SpexForLandCover.from_pretrained(clean).save_pretrained(tmp_path / "again")
    SpexForLandCover.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "third")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        assert (tmp_path / "third" / name).read_text() == (tmp_path / "again" / name).read_text()
        assert "trust_remote_code" not in (tmp_path / "again" / name).read_text()
