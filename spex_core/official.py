"""Conversion of published SPEX checkpoints: every weight accounted for, nothing executed, written as safetensors.

What the result computes is described in :mod:`spex_core.official_procedure`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from spex_core.checkpoints import UNREADABLE, unreadable
from spex_core.configuration import SpexConfig
from spex_core.decoding import GENERATION_FILE, DecodingRule
from spex_core.durable_files import put_in_place
from spex_core.errors import CheckpointError
from spex_core.modeling import SpexForLandCover
from spex_core.official_layout import config_of, is_ignorable, our_name
from spex_core.official_weights import OfficialWeights, open_weights
from spex_core.processing import SpexProcessor

SHARD_BYTES = 1_000_000_000
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`convert_checkpoint` did."""

    keys: int
    """Published keys that were used."""
    parameters: int
    """Unique weights of the model."""
    ignored: tuple[str, ...]
    """Published keys that carry nothing."""
    rounded: int
    """Tensors that changed when rounded to float16."""
    tokenizer: bool
    """Whether tokenizer and processor were carried over."""


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    *,
    base: str | Path | None = None,
    keep_float32: bool = False,
    decoder_heads: int | None = None,
) -> ConversionReport:
    """Converts a published checkpoint into a folder that ``SpexForLandCover.from_pretrained`` loads.

    The published demo loads weights as float16 and computes in float32; its numbers need the same rounding, so weights
    are stored as float16 unless ``keep_float32``.

    Args:
        src: Published folder: config.json with safetensors or ``.bin`` weights, single or in shards; or a LoRA folder
            with an adapter and ``non_lora_trainables.bin``.
        dst: Folder to write; it must not exist or be empty.
        base: Published folder that a LoRA folder adapts; default: the one its adapter_config.json names.
        keep_float32: Keeps float32 weights as they are stored.
        decoder_heads: Attention heads of the mask decoder, if they are not the published 8.

    Raises:
        CheckpointError: Files are missing, corrupt or no weights; keys are missing, unknown or of other shapes (all are
            listed); a weight does not fit float16; ``dst`` holds something.
    """
    source, target = Path(src), Path(dst)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} already holds something; name a new folder")
    with open_weights(source, None if base is None else Path(base)) as weights:
        names, ignored, document = _our_names(weights), tuple(filter(is_ignorable, weights.names())), weights.document
        if bool(document.get("tie_word_embeddings")) and "lm_head.weight" in names.values():
            ignored += ("lm_head.weight",)  # a tied head is the embedding, whatever the file says
            names = {key: name for key, name in names.items() if name != "lm_head.weight"}
        shapes = {name: weights.shape(key) for key, name in names.items()}
        config = config_of(document, shapes, decoder_heads)
        _check_shapes(config, shapes)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            rounded = _write_weights(weights, names, partial, keep_float32)
            dtype = "float32" if keep_float32 else "float16"
            config.architectures = [SpexForLandCover.__name__]
            config.dtype = dtype
            config.save_pretrained(partial)
            tokenizer = _carry_over((source, weights.base_folder), config, partial)
            partial.chmod(0o755)  # mkdtemp's own is private
            put_in_place(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    buffer = "mask_decoder.position.positional_embedding"
    parameters = sum(torch.Size(shape).numel() for name, shape in shapes.items() if name != buffer)
    return ConversionReport(len(names), parameters, ignored, rounded, tokenizer)


def _our_names(weights: OfficialWeights) -> dict[str, str]:
    """Our name of every published key that is not ignorable; unknown keys are an error that lists them."""
    names, unknown = {}, []
    for key in weights.names():
        if is_ignorable(key):
            continue
        name = our_name(key)
        if name is None:
            unknown.append(key)
        else:
            names[key] = name
    if unknown:
        raise CheckpointError(f"{weights.folder}: {_listed('unknown key', unknown)}")
    return names


def _check_shapes(config: SpexConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in SpexForLandCover(config).state_dict().items()}
    problems = [
        _listed("missing key", sorted(expected.keys() - shapes.keys())),
        _listed("key without a place in this layout", sorted(shapes.keys() - expected.keys())),
        _listed(
            "wrong shape",
            [
                f"{name} {shape} instead of {expected[name]}"
                for name, shape in shapes.items()
                if name in expected and shape != expected[name]
            ],
        ),
    ]
    if text := "; ".join(filter(None, problems)):
        raise CheckpointError(f"the weights do not make a SPEX model: {text}")


def _listed(what: str, items: list[str]) -> str:
    return f"{len(items)} x {what}: {', '.join(items)}" if items else ""


def _write_weights(weights: OfficialWeights, names: Mapping[str, str], folder: Path, keep_float32: bool) -> int:
    """Writes shards and their index; returns how many tensors float16 changed. Holds one shard in memory."""
    rounded, size, total = 0, 0, 0
    shard: dict[str, Tensor] = {}
    shards: list[list[str]] = []

    def flush() -> None:
        save_file(shard, folder / f"model-{len(shards) + 1:05}.safetensors", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for key, name in names.items():
        stored = weights.tensor(key)
        tensor = stored.float() if keep_float32 else stored.half()
        if not torch.isfinite(tensor).all():
            reason = "does not fit float16" if torch.isfinite(stored).all() else "holds NaN or infinity"
            raise CheckpointError(f"{weights.folder}: {key} {reason}")
        rounded += not torch.equal(tensor.to(stored.dtype), stored)
        size += tensor.nbytes
        total += tensor.nbytes
        shard[name] = tensor.contiguous()
        if size >= SHARD_BYTES:
            flush()
            size = 0
    if shard:
        flush()
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(files) == 1:
        (folder / "model-00001.safetensors").rename(folder / "model.safetensors")
        return rounded
    for index, file in enumerate(files):
        (folder / f"model-{index + 1:05}.safetensors").rename(folder / file)
    weight_map = {name: file for file, members in zip(files, shards, strict=True) for name in members}
    index_text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1)
    (folder / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")
    return rounded


def _carry_over(folders: Iterable[Path | None], config: SpexConfig, target: Path) -> bool:
    """Copies tokenizer and generation files from the first folder that has each; True if there is a processor."""
    for name in (*TOKENIZER_FILES, GENERATION_FILE):
        for folder in folders:
            if folder is not None and (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
                break
    DecodingRule.read(target)  # an unreadable file is an error now, not when the model is loaded
    if not any((target / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return False
    try:
        tokenizer = AutoTokenizer.from_pretrained(target, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise CheckpointError(f"the tokenizer files are not readable: {unreadable(target, error)}") from error
    settings: dict[str, Any] = {"digits": 3, "literal_newline": True}
    SpexProcessor(
        tokenizer,
        bands=config.bands,
        attribute_records=config.attribute_records,
        attribute_fields=config.attribute_fields,
        **settings,
    ).save_pretrained(target)
    return True
