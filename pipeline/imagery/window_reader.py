"""Masks and reflectance of scenes for one window: remembers what was read, what failed, and what looks wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import ReadError
from pipeline.imagery.cloud_detection import detect_clouds
from pipeline.imagery.cloud_mask import clear_mask
from pipeline.imagery.copies import Notes
from pipeline.imagery.dark_pixels import SAMPLE_MIN, check_dark_pixels
from pipeline.imagery.stack import load
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene
from pipeline.records.windows import slices
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor
from pipeline.sources.providers import READ_ASSETS
from spex_core.bands import SENTINEL2_BANDS

SAMPLE_STEP_PX = 8
"""Every so many-th pixel goes into the check of dark pixels."""

MASKS_KEPT = 64
"""Masks of the whole window that are kept while it is composited, two bits a pixel."""
SCENES_SAMPLED = 32
"""Scenes of one window that go into the check of dark pixels, the least cloudy ones."""

JUDGED_MIN = 50
"""Fewest pixels of that sample by which values are said to be no reflectance."""
NEVER_HALF = (-0.3, 1.6)
"""Half of a place's clear pixels are never darker or brighter."""
SELDOM_HALF = {"B02": -0.015, "B03": -0.015, "B04": -0.015}
SELDOM_HALF_INFRARED = -0.03
"""Below this half of them are only where one file of the scene is written in another way than the others. Water is
corrected to a little below zero in the visible bands, and to more below it in the infrared."""
DOUBTFUL = ": doubtful: "
"""Stands in the report's lines between a scene's id and what makes the whole scene doubtful."""

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
        self._mask_scl = composite.masked_scl
        self._cloud_checkpoint = None if composite.cloud_mask == "scl" else composite.cloud_checkpoint
        self._dilation_px = composite.dilation_px(grid.resolution_m)
        self._kept: dict[str, npt.NDArray[np.uint8]] = {}
        """Scene id → bits of (seen, clear) of the whole window: asked for again when a file fails half-way."""
        self._ahead: dict[tuple[str, Window], npt.NDArray[np.uint8]] = {}
        """The same of rectangles, until they were used."""
        self._clear_samples: dict[str, _Bool] = {}
        self._samples: dict[str, dict[str, _Float]] = {}
        self._problems: dict[str, str] = {}
        self._notes: Notes = {}
        self.used: set[str] = set()
        """Ids of scenes whose pixels are in the composite; kept by the composite."""

    def failed(self, scene: Scene) -> bool:
        """True if a file of the scene could not be read."""
        return scene.id in self._problems

    @property
    def lattice_offset(self) -> tuple[int, int]:
        """Row and column of the window's first pixel on the lattice of the projection's origin."""
        step = self.grid.resolution_m
        return round(-self.grid.top / step) + self.window.row, round(self.grid.left / step) + self.window.col

    def within_grid(self, part: Window) -> Window:
        """A rectangle of the window as a window of the grid."""
        return Window(self.window.row + part.row, self.window.col + part.col, part.height, part.width)

    def clear(self, scene: Scene, part: Window) -> tuple[_Bool, _Bool] | None:
        """Where a scene has data and where it may be used, in a rectangle of the window.

        Returns:
            (seen, clear), each bool [h, w] of the rectangle; None if unreadable.
        """
        if self.failed(scene):
            return None
        if scene.id not in self._kept and (scene.id, part) not in self._ahead:
            try:
                self._read_masks([scene], part)
            except ReadError as error:
                self._problems[scene.id] = f"{scene.id}: {SCL}: {error}"
            if self.failed(scene):
                return None
        packed = self._ahead.pop((scene.id, part), None)
        if packed is None:
            rows, columns = slices(part, Window(0, 0, *self.shape))
            seen, clear = np.unpackbits(self._kept[scene.id][:, rows], axis=-1, count=self.shape[1]).view(bool)
            return seen[:, columns], clear[:, columns]
        seen, clear = np.unpackbits(packed, axis=-1, count=part.width).view(bool)
        return seen, clear

    def prefetch(self, scenes: Sequence[Scene], part: Window) -> None:
        """Reads the masks of several scenes that will all be asked for, at the same time where they are remote."""
        wanted = [s for s in scenes if s.id not in self._kept and not self.failed(s)]
        # A file that fails here is told when its scene is asked for.
        with contextlib.suppress(ReadError):
            self._read_masks(wanted, part)

    def forget_masks(self) -> None:
        """Lets go of what was read ahead and not asked for."""
        self._ahead.clear()

    def _read_masks(self, scenes: Sequence[Scene], part: Window) -> None:
        halo, (height, width) = self._dilation_px, (part.height, part.width)
        inner = self.within_grid(part)
        grown = Window(inner.row - halo, inner.col - halo, height + 2 * halo, width + 2 * halo)
        for scene, scl in zip(
            scenes, load(scenes, [SCL], self.grid, grown, self._door, self._notes)[:, 0], strict=True
        ):
            classes = np.nan_to_num(scl, nan=0.0).astype(np.uint8)
            seen = classes[halo : halo + height, halo : halo + width] != 0
            clear = clear_mask(classes, self._mask_scl, halo)
            if self._cloud_checkpoint is not None and clear.any():
                try:
                    detected = detect_clouds(scene, self.grid, grown, self._cloud_checkpoint, self._door, self._notes)
                except ReadError as error:
                    self._note_unread(scene, error)
                    continue
                clear = clear_mask(classes, self._mask_scl, halo, detected)
            packed = np.packbits(np.stack([seen, clear]), axis=-1)
            if (height, width) == self.shape and len(self._kept) < MASKS_KEPT:
                self._kept[scene.id] = packed
            else:
                self._ahead[scene.id, part] = packed
            self._sample_clear(scene, part, clear)

    def bands(self, scenes: Sequence[Scene], names: Sequence[str], part: Window) -> _Float | None:
        """Reflectance in a rectangle of the window.

        Returns:
            float32 [scene, band, h, w] of the rectangle, NaN = none. None if any is unreadable or no
            reflectance, which is remembered.
        """
        try:
            values = load(scenes, names, self.grid, self.within_grid(part), self._door, self._notes)
        except ReadError as error:
            culprits = [scene for scene in scenes if _names_file_of(scene, error)]
            if not culprits:
                raise
            for scene in culprits:
                self._note_unread(scene, error)
            return None
        for i, scene in enumerate(scenes):
            for j, name in enumerate(names):
                asset = scene.assets[name]
                values[i, j] *= np.float32(asset.scale)
                values[i, j] += np.float32(asset.offset)
                self._sample_band(scene, name, part, values[i, j])
        return None if any(self.failed(scene) for scene in scenes) else values

    def _note_unread(self, scene: Scene, error: ReadError) -> None:
        name = next((n for n, asset in scene.assets.items() if str(error).startswith(f"{asset.href} ")), "")
        self._problems[scene.id] = f"{scene.id}: {name}: {error}"

    def _sample_clear(self, scene: Scene, part: Window, clear: _Bool) -> None:
        if not clear.any():
            return
        rows, columns = (-(-size // SAMPLE_STEP_PX) for size in self.shape)
        sample = self._clear_samples.setdefault(scene.id, np.zeros((rows, columns), bool))
        at, picked = _sampled(part)
        sample[at] = clear[picked]

    def _sample_band(self, scene: Scene, name: str, part: Window, values: _Float) -> None:
        at, picked = _sampled(part)
        sample = values[picked][self._clear_samples[scene.id][at]]
        # Scenes are examined before a run, but not those whose files could not be read then.
        known = sample[np.isfinite(sample)]
        if len(known) >= JUDGED_MIN and not NEVER_HALF[0] <= (middle := float(np.median(known))) <= NEVER_HALF[1]:
            self._problems[scene.id] = f"{scene.id}: {name}: half of the values are reflectances around {middle:.3g}"
            return
        # A bounded number of scenes: the cloudiest of a long period are not checked here.
        if scene.id in self._samples or len(self._samples) < SCENES_SAMPLED:
            self._samples.setdefault(scene.id, {})[name] = sample

    @property
    def unread(self) -> tuple[str, ...]:
        """Ids of scenes with a file that could not be read, sorted."""
        return tuple(sorted(self._problems))

    def report(self) -> tuple[str, ...]:
        """Problems of reading, copies that were read in place of others, warnings about radiometry; each sorted."""
        copies: list[str] = []
        for scene_id in sorted({scene_id for scene_id, _ in self._notes} - self._problems.keys()):
            bands = [name for name in READ_ASSETS if (scene_id, name) in self._notes]
            copies.append(f"{scene_id}: {', '.join(bands)}: {self._notes[scene_id, bands[0]]}")
        warnings: list[str] = []
        for scene_id in sorted(self._samples):
            sample = self._samples[scene_id]
            names = [name for name in SENTINEL2_BANDS if name in sample]
            dark = [name for name in names if _is_half_negative(name, sample[name])]
            if dark:
                warnings.append(
                    f"{scene_id}{DOUBTFUL}half of the pixels of {', '.join(dark)} are darker than black: these files "
                    "have another scale or offset than the item says"
                )
            if len(names) > 1 and len({sample[name].shape for name in names}) == 1:
                found = check_dark_pixels(np.stack([sample[name] for name in names]), names)
                if found:
                    warnings.append(f"{scene_id}: {found}")
        return (*(self._problems[k] for k in sorted(self._problems)), *copies, *warnings)


def _names_file_of(scene: Scene, error: ReadError) -> bool:
    return any(str(error).startswith(f"{asset.href} ") for asset in scene.assets.values())


def _is_half_negative(name: str, sample: _Float) -> bool:
    known = sample[np.isfinite(sample)]
    return len(known) >= SAMPLE_MIN and float(np.median(known)) < SELDOM_HALF.get(name, SELDOM_HALF_INFRARED)


def _sampled(part: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Which pixels of the window's sample lie in a rectangle, and which pixels of the rectangle they are."""
    step = SAMPLE_STEP_PX
    at, picked = [], []
    for start, size in ((part.row, part.height), (part.col, part.width)):
        at.append(slice(-(-start // step), -(-(start + size) // step)))
        picked.append(slice(-start % step, None, step))
    return (at[0], at[1]), (picked[0], picked[1])
