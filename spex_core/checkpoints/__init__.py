"""Checkpoints that come with the package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from spex_core.errors import CheckpointError

BUILT_IN = Path(__file__).parent
DEFAULT_CHECKPOINT = "spex-s2-tiny"


def resolve_checkpoint(name: str) -> Path:
    """Folder of a checkpoint, given a built-in name or a path.

    Raises:
        CheckpointError: Neither exists.
    """
    for folder in (BUILT_IN / name if "/" not in name and not name.startswith(".") else None, Path(name)):
        if folder is not None and (folder / "config.json").is_file():
            return folder
    known = ", ".join(sorted(p.parent.name for p in BUILT_IN.glob("*/config.json")))
    raise CheckpointError(f"checkpoint {name!r} is neither a folder with a config.json nor built in ({known})")


def checkpoint_fingerprint(folder: Path) -> str:
    """sha256, hex, over the names and bytes of the files that decide what a checkpoint computes.

    Raises:
        CheckpointError: The folder has no weights, or a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt"))
        if not any(path.suffix == ".safetensors" for path in files):
            raise CheckpointError(f"checkpoint {folder} holds no .safetensors file; save_pretrained writes one")
        for path in files:
            with path.open("rb") as stream:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    return digest.hexdigest()
