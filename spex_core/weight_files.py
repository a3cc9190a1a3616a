"""Weights of a checkpoint folder, opened but not read: single or sharded safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spex_core.errors import CheckpointError

WEIGHTS = "model.safetensors"


def weight_files(folder: Path, single: str = WEIGHTS) -> list[Path]:
    """The files that hold the weights; empty if there are none under this name.

    Args:
        folder: Checkpoint folder.
        single: Name of the file if there is one; shards are listed in ``{single}.index.json``.

    Raises:
        CheckpointError: An index is no index, or names files that are missing or elsewhere.
    """
    index = folder / f"{single}.index.json"
    if not index.is_file():
        return [folder / single] if (folder / single).is_file() else []
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of weights: {error}") from error
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names no weight files of its own folder")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} misses {', '.join(missing)}, which {index.name} names")
    return [folder / name for name in names]


@contextmanager
def lazy_weights(folder: Path) -> Iterator[dict[str, Any]]:
    """Every weight of a folder by name, as a slice that is read when it is indexed.

    Files are read, not memory-mapped: pages of a mapped file count as the process's memory until the file is closed.

    Raises:
        CheckpointError: There are no safetensors, or one is corrupt or truncated.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder} is not a readable SPEX checkpoint: it has no {WEIGHTS}")
    with ExitStack() as stack:
        weights: dict[str, Any] = {}
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, framework="pt", backend="pread"))
                weights |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{folder} is not a readable SPEX checkpoint: {path.name}: {error}") from error
        yield weights
