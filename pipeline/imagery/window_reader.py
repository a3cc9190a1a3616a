"""Masks and reflectance of scenes for one window: remembers what was read, what failed, and what looks wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import ReadError
from pipeline.imagery.cloud_mask import clear_mask
from pipeline.imagery.stack import load
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor
from pipeline.sources.radiometry import check_dark_pixels
from spex_core.bands import SENTINEL2_BANDS

SAMPLE_STEP_PX = 8
"""Every so many-th pixel goes into the check of dark pixels."""

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


class WindowReader:
    """Reads files of scenes for one window, remembers what failed and what the masks are."""

    def __init__(
        self, grid: ZoneGrid, window: Window, composite: CompositeConfig, door: AssetDoor | None = None
    ) -> None:
        self.grid = grid
        self.window = window
        self._door = door
        self.shape = (window.height, window.width)
        self._mask_scl = composite.mask_scl
        # Growth is given in 10 m pixels; the grid may be coarser.
        self._dilation_px = round(composite.mask_dilation_px * 10.0 / grid.resolution_m)
        self._masks: dict[str, npt.NDArray[np.uint8]] = {}
        """Scene id → bits of (seen, clear): packed, because there may be a hundred candidates."""
        self._clear_samples: dict[str, _Bool] = {}
        self._samples: dict[str, dict[str, _Float]] = {}
        self._problems: dict[str, str] = {}
        self.used: set[str] = set()
        """Ids of scenes whose pixels are in the composite; kept by the composite."""

    def failed(self, scene: Scene) -> bool:
        """True if a file of the scene could not be read."""
        return scene.id in self._problems

    def clear(self, scene: Scene) -> tuple[_Bool, _Bool] | None:
        """(seen, clear), each bool [h, w]: where the scene has data, and where it may be used. None if unreadable."""
        if self.failed(scene):
            return None
        if scene.id not in self._masks:
            try:
                self._remember_masks([scene])
            except ReadError as error:
                self._problems[scene.id] = f"{scene.id}: {SCL}: {error}"
                return None
        seen, clear = np.unpackbits(self._masks[scene.id], axis=-1, count=self.shape[1]).view(bool)
        return seen, clear

    def prefetch(self, scenes: Sequence[Scene]) -> None:
        """Reads the masks of several scenes that will all be asked for, at the same time where they are remote."""
        wanted = [scene for scene in scenes if scene.id not in self._masks and not self.failed(scene)]
        # A file that fails here is told when its scene is asked for.
        with contextlib.suppress(ReadError):
            self._remember_masks(wanted)

    def _remember_masks(self, scenes: Sequence[Scene]) -> None:
        halo, (height, width) = self._dilation_px, self.shape
        grown = Window(self.window.row - halo, self.window.col - halo, height + 2 * halo, width + 2 * halo)
        for scene, scl in zip(scenes, load(scenes, [SCL], self.grid, grown, self._door)[:, 0], strict=True):
            classes = np.nan_to_num(scl, nan=0.0).astype(np.uint8)
            seen = classes[halo : halo + height, halo : halo + width] != 0
            clear = clear_mask(classes, self._mask_scl, halo)
            self._masks[scene.id] = np.packbits(np.stack([seen, clear]), axis=-1)
            self._clear_samples[scene.id] = clear[::SAMPLE_STEP_PX, ::SAMPLE_STEP_PX].copy()

    def bands(self, scenes: Sequence[Scene], names: Sequence[str]) -> _Float | None:
        """Reflectance: float32 [scene, band, h, w], NaN = none. None if any is unreadable, which is remembered."""
        try:
            values = load(scenes, names, self.grid, self.window, self._door)
        except ReadError as error:
            culprits = [(s, n) for s in scenes for n in names if str(error).startswith(f"{s.assets[n].href} ")]
            if not culprits:
                raise
            for scene, name in culprits:
                self._problems[scene.id] = f"{scene.id}: {name}: {error}"
            return None
        for i, scene in enumerate(scenes):
            for j, name in enumerate(names):
                asset = scene.assets[name]
                values[i, j] *= np.float32(asset.scale)
                values[i, j] += np.float32(asset.offset)
                sample = values[i, j, ::SAMPLE_STEP_PX, ::SAMPLE_STEP_PX]
                sample = np.where(self._clear_samples[scene.id], sample, np.float32(np.nan))
                self._samples.setdefault(scene.id, {})[name] = sample
        return values

    @property
    def unread(self) -> tuple[str, ...]:
        """Ids of scenes with a file that could not be read, sorted."""
        return tuple(sorted(self._problems))

    def report(self) -> tuple[str, ...]:
        """Problems of reading, then warnings about radiometry, sorted."""
        warnings: list[str] = []
        for scene_id in sorted(self._samples):
            sample = self._samples[scene_id]
            if len(sample) == len(SENTINEL2_BANDS):
                found = check_dark_pixels(np.stack([sample[name] for name in SENTINEL2_BANDS]))
                if found:
                    warnings.append(f"{scene_id}: {found}")
        return (*(self._problems[k] for k in sorted(self._problems)), *warnings)
