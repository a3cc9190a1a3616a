"""Checkpoints that come with the package."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spex_core.bands import SENTINEL2_BANDS
from spex_core.errors import CheckpointError
from spex_core.published import PUBLISHED_BANDS
from spex_core.true_color import TRUE_COLOR_BANDS

BUILT_IN = Path(__file__).parent
DEFAULT_CHECKPOINT = "spex-s2-tiny"
"""What a run file, an evaluation file and the benchmark take where none is named."""
DEFAULT_CLOUD_CHECKPOINT = "spex-s2-clouds"
"""The cloud network that a run file takes where none is named."""

LEGEND_FILE = "legend.yaml"
"""Beside the weights of a checkpoint that answers one legend (``spex adapt``)."""


def resolve_checkpoint(name: str) -> Path:
    """Folder of a checkpoint, given a built-in name or a path.

    Raises:
        CheckpointError: Neither exists.
    """
    for folder in (BUILT_IN / name if "/" not in name and not name.startswith(".") else None, Path(name)):
        with contextlib.suppress(OSError, ValueError):  # a name that cannot be one of a file
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


def has_processor(folder: str | Path) -> bool:
    """Whether a checkpoint folder holds a processor or tokenizer at all."""
    return any((Path(folder) / name).is_file() for name in ("processor_config.json", "tokenizer.json"))


UNREADABLE = (Exception,)
"""What transformers, and the libraries that it asks, raise about malformed files of a checkpoint: dozens of kinds."""


def unreadable(folder: str | Path, error: Exception) -> CheckpointError:
    """The one error for a checkpoint that transformers could not load; names files that ask for code of their own."""
    if asking := [f"{name} ({field})" for name, field, _ in _code_fields(Path(folder))]:
        return CheckpointError(
            f"{folder} is not a readable SPEX checkpoint: {', '.join(asking)} asks for code of its own, which is never "
            "run; remove the field and name one of transformers' own classes"
        )
    if isinstance(error, CheckpointError):
        return error
    return CheckpointError(f"{folder} is not a readable SPEX checkpoint ({type(error).__name__}): {error}")


def refuse_fetched_code(folder: str | Path) -> None:
    """Refuses an attention kernel that transformers would fetch from elsewhere and run.

    Raises:
        CheckpointError: A JSON file of the folder names one.
    """
    for name, field, value in _code_fields(Path(folder)):
        if field != "auto_map" and "/" in str(value):
            raise CheckpointError(f"{Path(folder) / name}: {field} {str(value)[:80]!r} is code from elsewhere: not run")


def _code_fields(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """File, field and value wherever a JSON file of the folder names Python classes or kernels."""
    for path in sorted(folder.glob("*config.json")):
        try:
            waiting = [json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, RecursionError):
            continue  # whoever needs the file says what is wrong with it
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting += value.values()
                for field in ("auto_map", "attn_implementation", "_attn_implementation"):
                    if (field == "auto_map" and field in value) or "/" in str(value.get(field, "")):
                        yield path.name, field, value[field]
            elif isinstance(value, list):
                waiting += value


def check_checkpoint(folder: Path, bands: Sequence[str]) -> None:
    """Reads a checkpoint's configuration alone: can it take these bands, and be asked?

    Args:
        folder: Holds a ``config.json``.
        bands: What the pixels will be, in channel order.

    Raises:
        CheckpointError: Not a SPEX configuration, other bands, or no processor.
    """
    config = read_configuration(folder)
    kind = config.get("model_type")
    if kind != "spex":
        raise CheckpointError(
            f"checkpoint {folder} is of type {kind!r}, not 'spex'; published ones go through spex convert-checkpoint"
        )
    if sees_true_color(folder):
        if missing := [name for name in TRUE_COLOR_BANDS if name not in bands]:
            raise CheckpointError(
                f"checkpoint {folder} sees red, green and blue, but the run does not read {' '.join(missing)}; add "
                "them to source.bands"
            )
    else:
        _check_bands(folder, config, bands)
    if not has_processor(folder):
        raise CheckpointError(
            f"checkpoint {folder} has no processor (tokenizer.json), so it cannot be asked; copy the tokenizer of the "
            "model it was made from into it"
        )


def _check_bands(folder: Path, config: dict[str, Any], bands: Sequence[str]) -> None:
    own = config.get("bands", SENTINEL2_BANDS)  # what equals the default need not be written
    own = [str(name) for name in own] if isinstance(own, list | tuple) else [str(own)]
    some = set(bands) < set(own)
    if some and not config.get("band_encoding", False):
        raise CheckpointError(
            f"checkpoint {folder} needs all of its bands ({' '.join(own)}), but the run reads {' '.join(bands)}; give "
            "model.checkpoint one that was trained with band_encoding"
        )
    if own != list(bands) and not some:
        raise CheckpointError(
            f"checkpoint {folder} takes {len(own)} bands ({' '.join(own[:16])}), but the run reads {len(bands)} "
            f"({' '.join(bands)}); give model.checkpoint one that was trained for these"
        )


def read_configuration(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint; empty where it holds something else than fields.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable config.json: {error}") from error
    return config if isinstance(config, dict) else {}


def sees_true_color(folder: Path) -> bool:
    """Whether a checkpoint is a published one: it sees red, green and blue.

    Raises:
        CheckpointError: It has no readable configuration.
    """
    config = read_configuration(folder)
    return config.get("model_type") == "spex" and config.get("bands") == list(PUBLISHED_BANDS)


def adapted_codes(folder: Path) -> tuple[int, ...]:
    """Codes of the one legend that a checkpoint answers; none: it answers any."""
    codes = read_configuration(folder).get("head_codes", ())
    return tuple(code for code in codes if isinstance(code, int)) if isinstance(codes, list) else ()
