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
    """sha256, hex, over the names and bytes of the files that decide what a checkpoint computes."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".txt"):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
