"""Cloud and shadow: the scene classification, the cloud network, both, and a public network, on labelled scenes.

``python -m benchmarks.clouds --real folder`` reads scenes that are no part of this project (docs/benchmarks/clouds.md).
What is cloud and what shadow in those of Sentinel-2 was drawn by eye for this benchmark, without knowledge of any mask;
it lies beside this file. The Landsat scenes have masks of their authors. The public network is ``ukis-csmask``; it is
measured where it is installed (the extra ``benchmarks``). Times are those of one thread, in one process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from PIL import Image

from pipeline.records.scene import SCL_GROWING
from spex_core.checkpoints import DEFAULT_CLOUD_CHECKPOINT, resolve_checkpoint
from spex_core.cloud_classes import CHANNELS, SHADOW, THICK, THIN
from spex_core.cloud_detector import CloudDetector
from spex_core.cloud_network import HALO_PX, STEP_PX
from workflows.train_clouds import drawn_masks

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
LABELS = Path(__file__).parent / "cloud_labels"
UNKNOWN, CLEAR_LAND, THICK_CLOUD, THIN_CLOUD, CLOUD_SHADOW, CLEAR_WATER = range(6)
"""Codes of the drawn labels."""
SCL_SHADOW = 3
NOTHING, CLOUD, SHADED = range(3)
"""What a method says of a pixel."""
DRAWN_BY_AUTHORS = {0: CLOUD_SHADOW, 1: CLEAR_WATER, 2: CLEAR_LAND, 3: CLEAR_LAND, 4: THICK_CLOUD}


@dataclass(frozen=True)
class Labelled:
    """One scene."""

    name: str
    group: str
    level: str
    """``l1c`` or ``l2a``: which of its weights the public network takes."""
    reflectance: FloatArray
    """``[6, H, W]``; NaN where there is no such band."""
    truth: ByteArray
    scl: ByteArray | None


def labelled_scenes(folder: Path) -> Iterator[Labelled]:
    """The scenes, Sentinel-2 first."""
    with rasterio.open(folder / "ireland-tile-60m-s2" / "T29UNU_20221005_60m.tif") as source:
        image = source.read((2, 3, 4, 8, 10, 11)).astype(np.float32) * np.float32(1e-4) - np.float32(0.1)
    with rasterio.open(folder / "ireland-tile-60m-s2" / "SCL_60m.tif") as source:
        yield Labelled("ireland", "Sentinel-2 L2A", "l2a", image, _drawn("ireland"), source.read(1))
    with rasterio.open(folder / "coastal-accra" / "accra.tif") as source:
        bands = source.read()
    image = np.full((len(CHANNELS), *bands.shape[1:]), np.nan, np.float32)
    image[:5] = bands[[0, 1, 2, 4, 5]].astype(np.float32) * np.float32(1e-4) - np.float32(0.1)
    yield Labelled("accra", "Sentinel-2 L2A", "l2a", image, _drawn("accra"), bands[6].astype(np.uint8))
    for path in sorted((folder / "lahinch-worldfloods-l1c").glob("*_l1c_x10000.tif")):
        name = f"lahinch-{path.name.split('_')[1]}"
        with rasterio.open(path) as source:
            image = source.read((2, 3, 4, 8, 12, 13)).astype(np.float32) * np.float32(1e-4)
        yield Labelled(name, "Sentinel-2 L1C", "l1c", image, _drawn(name), None)
    for drawn in drawn_masks(folder, DRAWN_BY_AUTHORS):
        yield Labelled(drawn.name, "Landsat TOA", "l1c", drawn.reflectance, drawn.label, None)


def _drawn(name: str) -> ByteArray:
    return np.asarray(Image.open(LABELS / f"{name}.png"), np.uint8)


# --- methods ------------------------------------------------------------------------------------------------------


def by_classification(scl: ByteArray) -> ByteArray:
    """What the scene classification calls cloud, cirrus and shadow."""
    found = np.full(scl.shape, NOTHING, np.uint8)
    found[np.isin(scl, SCL_GROWING)] = CLOUD
    found[scl == SCL_SHADOW] = SHADED
    return found


def by_network(detector: CloudDetector, reflectance: FloatArray) -> ByteArray:
    """What the cloud network says, with a mirrored margin in place of the image's surroundings."""
    height, width = reflectance.shape[1:]
    right, below = (-size % STEP_PX + HALO_PX for size in (width, height))
    padded = np.pad(reflectance, ((0, 0), (HALO_PX, below), (HALO_PX, right)), "symmetric")
    classes = detector.classes(padded)[HALO_PX : HALO_PX + height, HALO_PX : HALO_PX + width]
    found = np.full(classes.shape, NOTHING, np.uint8)
    found[np.isin(classes, (THICK, THIN))] = CLOUD
    found[classes == SHADOW] = SHADED
    return found


def by_public_network(scene: Labelled) -> ByteArray:
    """What ukis-csmask says; with four bands where the scene has no six."""
    from ukis_csmask.mask import CSmask  # type: ignore[import-not-found]

    bands = 6 if not np.isnan(scene.reflectance[5]).all() else 4
    names = ["blue", "green", "red", "nir", "swir16", "swir22"][:bands]
    image = np.ascontiguousarray(np.moveaxis(scene.reflectance[:bands], 0, 2))
    mask = CSmask(image, names, scene.level, intra_op_num_threads=1, inter_op_num_threads=1).csm[..., 0]
    return np.asarray(mask, np.uint8)  # 0 background, 1 cloud, 2 shadow, as here


def either(first: ByteArray, second: ByteArray) -> ByteArray:
    """Cloud where one says so, else shadow where one says so."""
    shaded = np.where((first == SHADED) | (second == SHADED), SHADED, NOTHING)
    return np.where((first == CLOUD) | (second == CLOUD), CLOUD, shaded).astype(np.uint8)


# --- figures ------------------------------------------------------------------------------------------------------


class Counts:
    """Pixels that are, are said to be, and both, for cloud and for shadow; and what is mistaken for them."""

    def __init__(self) -> None:
        self.both, self.any = np.zeros(3, np.int64), np.zeros(3, np.int64)
        self.water = self.water_shaded = 0

    def add(self, said: ByteArray, truth: ByteArray) -> None:
        """Counts the labelled pixels of one scene."""
        known = truth != UNKNOWN
        for what, codes in ((CLOUD, (THICK_CLOUD, THIN_CLOUD)), (SHADED, (CLOUD_SHADOW,))):
            true, told = np.isin(truth, codes) & known, (said == what) & known
            self.both[what] += int((true & told).sum())
            self.any[what] += int((true | told).sum())
        self.water += int((truth == CLEAR_WATER).sum())
        self.water_shaded += int(((truth == CLEAR_WATER) & (said == SHADED)).sum())

    def iou(self, what: int) -> float | None:
        """Intersection over union; None where there is neither."""
        return float(self.both[what] / self.any[what]) if self.any[what] else None

    def figures(self) -> dict[str, float | None]:
        """For the table."""
        share = self.water_shaded / self.water if self.water else None
        return {"cloud": self.iou(CLOUD), "shadow": self.iou(SHADED), "water called shadow": share}


def measure(
    scenes: list[Labelled], detectors: Callable[[str], CloudDetector], public: bool, pictures: Path | None
) -> tuple[dict[str, dict[str, Counts]], dict[str, float]]:
    """Group or scene → method → counts, and CPU seconds per million pixels of each network."""
    found: dict[str, dict[str, Counts]] = {}
    seconds, pixels = {"network": 0.0, "public network": 0.0}, 0
    for scene in scenes:
        said: dict[str, ByteArray] = {}
        detector = detectors(scene.name)
        began = time.process_time()
        said["network"] = by_network(detector, scene.reflectance)
        seconds["network"] += time.process_time() - began
        if scene.scl is not None:
            said["scl"] = by_classification(scene.scl)
            said["both"] = either(said["scl"], said["network"])
        if public:
            began = time.process_time()
            said["public network"] = by_public_network(scene)
            seconds["public network"] += time.process_time() - began
        pixels += scene.truth.size
        for name in (scene.group, scene.name):
            for method, mask in said.items():
                found.setdefault(name, {}).setdefault(method, Counts()).add(mask, scene.truth)
        if pictures is not None:
            _draw(pictures / f"{scene.name}.png", scene, said)
    return found, {name: value / pixels * 1e6 for name, value in seconds.items() if value}


def _draw(path: Path, scene: Labelled, said: dict[str, ByteArray]) -> None:
    """True colour, truth and each mask side by side."""
    colour = np.clip(np.nan_to_num(np.moveaxis(scene.reflectance[[2, 1, 0]], 0, 2)) * 1.9, 0, 1) ** 0.7 * 255
    panels = [colour.astype(np.uint8)]
    truth = np.array([[0, 0, 0], [60, 140, 60], [255] * 3, [170, 190, 230], [0, 0, 120], [0, 120, 255]], np.uint8)
    panels.append(truth[scene.truth])
    mask = np.array([[60, 140, 60], [255, 255, 255], [0, 0, 120]], np.uint8)
    panels += [mask[said[name]] for name in ("scl", "network", "public network") if name in said]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(panels, axis=1)).save(path)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> None:
    """Prints one table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="folder of the labelled scenes")
    parser.add_argument("--checkpoint", default=DEFAULT_CLOUD_CHECKPOINT, help="built-in name or folder")
    parser.add_argument(
        "--left-out", action="append", default=[], metavar="SCENE=FOLDER", help="network that has not seen this scene"
    )
    parser.add_argument("--pictures", type=Path, help="folder for pictures of scenes and masks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    others = {
        name: CloudDetector.load(Path(folder)) for name, _, folder in (v.partition("=") for v in options.left_out)
    }
    own = CloudDetector.load(resolve_checkpoint(options.checkpoint))
    public = importlib.util.find_spec("ukis_csmask") is not None
    found, seconds = measure(
        list(labelled_scenes(options.real)), lambda name: others.get(name, own), public, options.pictures
    )
    print("| | cloud IoU | shadow IoU | water called shadow |\n|---|--:|--:|--:|")
    for name, methods in found.items():
        for method, counts in methods.items():
            print(f"| {name}: {method} | " + " | ".join(_cell(v) for v in counts.figures().values()) + " |")
    for name, value in seconds.items():
        print(f"{name}: {value:.2f} CPU seconds per million pixels")
    figures = {name: {m: c.figures() for m, c in methods.items()} for name, methods in found.items()}
    print(json.dumps({"benchmark": "clouds", "iou": figures, "cpu_s_per_mpx": seconds}))


if __name__ == "__main__":
    main()
