"""Which cloud network a run uses: found, checked and named by its bytes. torch is imported only to check one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from spex_core.checkpoints import checkpoint_fingerprint, resolve_checkpoint
from spex_core.cloud_classes import CHECKPOINT_TYPE, cloud_bands
from spex_core.errors import CheckpointError

if TYPE_CHECKING:
    from pipeline.settings.run_file import CompositeConfig

LEAST_BANDS = 3
"""Of six; with fewer the network was not trained."""


def cloud_folder(checkpoint: str) -> Path:
    """Folder of a cloud network, given a built-in name or a path.

    Raises:
        CheckpointError: There is none, or it holds another kind of checkpoint.
    """
    folder = resolve_checkpoint(checkpoint)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable config.json: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != CHECKPOINT_TYPE:
        raise CheckpointError(f"checkpoint {folder} is of type {kind!r}, not {CHECKPOINT_TYPE!r}: it detects no clouds")
    return folder


def check_cloud_mask(composite: CompositeConfig, bands: Sequence[str]) -> None:
    """Refuses a cloud network, or a rejection of outliers, that the run could not use, before any pixel is read.

    Args:
        composite: The run file's section.
        bands: What the run reads (``source.bands``).

    Raises:
        CheckpointError: No such network, or a damaged one.
        ConfigError: The bands are too few for it, or for the rejection of outliers.
    """
    found = cloud_bands(bands)
    if composite.reject_outliers and None in (found[0], found[2], found[3]):
        raise ConfigError(
            "composite.reject_outliers judges by blue (B02), red (B04) and near infrared (B08): add them to "
            "source.bands, or leave it out"
        )
    if composite.cloud_mask == "scl":
        return
    from spex_core.cloud_detector import CloudDetector

    CloudDetector.load(cloud_folder(composite.cloud_checkpoint))  # one message now instead of one for every block
    known = [name for name in found if name]
    if len(known) < LEAST_BANDS:
        raise ConfigError(
            f"composite.cloud_mask is {composite.cloud_mask!r}, but of source.bands the cloud network knows only "
            f"{' '.join(known) or 'none'}: read {LEAST_BANDS} or more of B02 B03 B04 B08 B11 B12, or set it to scl"
        )


def cloud_fingerprint(composite: CompositeConfig) -> str | None:
    """Identity of the network in force, None where the scene classification alone decides.

    Raises:
        CheckpointError: It cannot be read.
    """
    if composite.cloud_mask == "scl":
        return None
    return checkpoint_fingerprint(cloud_folder(composite.cloud_checkpoint))
