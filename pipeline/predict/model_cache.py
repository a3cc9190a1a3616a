"""Models that are ready for one legend, kept between runs in the user's cache folder.

A network that masks by class words needs its language model once per legend. What remains is kept for the next actor
and the next run, under a name that depends on everything that its bytes depend on. A file that is missing, damaged or
not ours costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.machine.user_cache import user_cache
from pipeline.planning.software import software_versions
from spex_core.durable_files import check_own, replacing
from spex_core.errors import CheckpointError
from spex_core.legend import Legend

if TYPE_CHECKING:
    from torch import Tensor

    from spex_core.modeling import SpexForLandCover
    from spex_core.word_masks import WordMasks

logger = logging.getLogger(__name__)

KEPT_FILES = 16
"""The newest ones; each is as large as the vision side of its model."""


def kept_file(fingerprint: str, legend: Legend, threads: int) -> Path | None:
    """Where the model of a checkpoint for a legend is kept: below ``$XDG_CACHE_HOME/spex``, or ``~/.cache/spex``.

    None where this process has no home: nothing is kept.

    Args:
        fingerprint: Of the checkpoint.
        legend: Its nouns and priors decide the prompts.
        threads: Of torch; sums depend on them.
    """
    identity = [fingerprint, legend.fingerprint(), [entry.name for entry in legend], threads, software_versions()]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    folder = user_cache()
    return None if folder is None else folder / f"{name}.safetensors"


def kept_model(path: Path) -> WordMasks | None:
    """The model that is kept there, if there is one."""
    from spex_core.word_masks import read_word_masks

    try:
        check_own(path)
        if not path.exists():
            return None
        model = read_word_masks(path)
        os.utime(path)  # in use
    except (OSError, CheckpointError) as error:
        logger.warning("the model kept in %s is not used: %s", path, error)
        return None
    return model


def keep_model(model: SpexForLandCover, prompts: Tensor, path: Path) -> None:
    """Keeps a model for the next one; where that is not possible, nothing is lost."""
    from spex_core.word_masks import write_word_masks

    try:
        with replacing(path) as draft:
            write_word_masks(model, prompts, draft)
        files = sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in files[KEPT_FILES:]:
            with contextlib.suppress(OSError):
                old.unlink()
    except (OSError, RuntimeError) as error:  # a home that cannot be written
        logger.info("the model is not kept in %s: %s", path, error)
