"""Samples of scenes, kept between runs in the user's cache folder: examining the same files again costs nothing.

A local file is known by its path, size and time; a remote one by its address without signature, for some days. Files
of a server on this machine are not kept: their addresses repeat. A damaged file costs time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import OutputError, SceneError
from pipeline.imagery.scene_sample import FileSample, SceneSample, bands_to_sample
from pipeline.machine.atomic_files import replacing
from pipeline.machine.user_cache import user_cache
from pipeline.records.scene import SCL, Scene
from pipeline.sources.file_identity import file_identity
from pipeline.sources.hrefs import local_path

FOLDER = "samples"
KEPT_SAMPLES = 2000
"""The newest ones; each has some 50 kB."""
REMOTE_DAYS = 7.0
LAYOUT = 1
"""Raised with every change of what is sampled or how it is written."""

logger = logging.getLogger(__name__)


def sample_file(scene: Scene) -> Path | None:
    """Where the sample of a scene is kept; None where it is not."""
    try:
        files = [_identity(scene.assets[name].href) for name in (*bands_to_sample(scene), SCL) if name in scene.assets]
    except (OSError, SceneError, ValueError):
        return None
    folder = user_cache()
    if folder is None or any(name is None for name in files):
        return None
    name = hashlib.sha256(json.dumps([LAYOUT, bands_to_sample(scene), files]).encode()).hexdigest()[:32]
    return folder / FOLDER / f"{name}.npz"


def _identity(href: str) -> list[object] | None:
    path = local_path(href)
    if path is not None:
        found = path.stat()
        return [str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
    name = file_identity(href)
    return None if name.startswith("//localhost") else [name]


def kept_sample(path: Path, remote: bool) -> SceneSample | None:
    """The sample that is kept there, if it is a whole one and not too old."""
    try:
        if remote and time.time() - path.stat().st_mtime > REMOTE_DAYS * 86400.0:
            return None
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            about = json.loads(str(data["about"]))
            bands = {
                name: FileSample(
                    np.asarray(data[name], np.float32),
                    str(one["dtype"]),
                    one["epsg"],
                    (int(one["shape"][0]), int(one["shape"][1])),
                    tuple(float(v) for v in one["transform"]),
                )
                for name, one in about["bands"].items()
            }
            classes = np.asarray(data[SCL], np.uint8) if SCL in data else None
            place = _tuples(about["place"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile):
        return None
    sizes = {sample.numbers.shape for sample in bands.values()} | ({classes.shape} if classes is not None else set())
    return SceneSample(bands, classes, place) if len(sizes) == 1 and isinstance(place, tuple) else None


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def keep_sample(sample: SceneSample, path: Path) -> None:
    """Keeps a sample for the next run; where that is not possible, nothing is lost."""
    files = {
        name: {"dtype": file.dtype, "epsg": file.epsg, "shape": file.shape, "transform": file.transform}
        for name, file in sample.bands.items()
    }
    arrays: dict[str, Any] = {name: file.numbers for name, file in sample.bands.items()}
    if sample.classes is not None:
        arrays[SCL] = sample.classes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, about=json.dumps({"bands": files, "place": sample.place}), **arrays)
    except (OSError, OutputError, ValueError) as error:  # a home that cannot be written
        logger.info("the sample is not kept in %s: %s", path, error)


def forget_old_samples() -> None:
    """Removes all but the newest samples."""
    folder = user_cache()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        files = sorted((folder / FOLDER).glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in files[KEPT_SAMPLES:]:
            with contextlib.suppress(OSError):
                os.unlink(old)
