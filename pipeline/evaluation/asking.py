"""The one place where an evaluation calls the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadInputError
from spex_core.bands import BANDS, SENTINEL2_BANDS, Band
from spex_core.configuration import LARGEST_STRIDE
from spex_core.errors import ModelInputError
from spex_core.legend import Legend

if TYPE_CHECKING:
    from spex_core.modeling import SpexForLandCover

FloatArray = npt.NDArray[np.float32]
Attributes = Literal["measured", "none"]


@dataclass(frozen=True)
class ModelImage:
    """A chip as the model takes it: only bands that are there, no gaps, sides that fit."""

    pixels: FloatArray
    """``[C, H', W']``: the C bands that are there, gaps filled, padded to a multiple of 32."""
    slots: tuple[int, ...]
    """Channel of each band in ``SENTINEL2_BANDS``."""
    shape: tuple[int, int]
    """H, W before padding."""

    def in_slots(self) -> FloatArray:
        """``[10, H', W']``, NaN in missing bands: what the index rules read."""
        channels = np.full((len(BANDS), *self.pixels.shape[1:]), np.nan, np.float32)
        channels[list(self.slots)] = self.pixels
        return channels


def model_image(reflectance: FloatArray) -> ModelImage | None:
    """Prepares a chip; a missing pixel takes the mean of its band, a chip is continued by its own mirror image.

    Args:
        reflectance: ``[10, H, W]``, NaN: missing band or pixel.

    Returns:
        None if nothing was observed at all.
    """
    finite = np.isfinite(reflectance)
    slots = tuple(int(i) for i in np.flatnonzero(finite.any(axis=(1, 2))))
    if not slots:
        return None
    pixels, known = reflectance[list(slots)], finite[list(slots)]
    if not known.all():
        mean = np.where(known, pixels, 0).sum(axis=(1, 2), dtype=np.float64) / known.sum(axis=(1, 2))
        pixels = np.where(known, pixels, mean[:, None, None].astype(np.float32))
    height, width = pixels.shape[1:]
    padding = [(0, 0), *((0, -side % LARGEST_STRIDE) for side in (height, width))]
    padded = np.pad(pixels, padding, mode="symmetric") if padding != [(0, 0)] * 3 else pixels
    return ModelImage(np.ascontiguousarray(padded, np.float32), slots, (height, width))


def questions(model: SpexForLandCover, image: ModelImage, legend: Legend, attributes: Attributes) -> list[str]:
    """K prompts for a chip, with the attributes that its own pixels show or with none."""
    if model.processor is None:
        raise BadInputError("this checkpoint has no processor (no tokenizer), so it cannot be asked for classes")
    return model.processor.questions(image.in_slots(), legend, max_records=0 if attributes == "none" else None)


class Answer(NamedTuple):
    """What a model says of one chip."""

    scores: FloatArray
    """``[K, H, W]``; they sum to 1 over K."""
    texts: list[str]
    """K texts as the model gives them out, empty for ``explain="none"``."""
    written: list[str]
    """The same before they were held against the masks, if the checkpoint does that."""


def ask(
    model: SpexForLandCover,
    image: ModelImage,
    legend: Legend,
    prompts: Sequence[str],
    *,
    explain: Literal["none", "brief", "full"] = "none",
    sensor: Sequence[Band] = BANDS,
    gsd_m: float | None = None,
) -> Answer:
    """Scores and texts of one chip.

    Args:
        model: A checkpoint.
        image: The chip.
        legend: K classes.
        prompts: K questions.
        explain: Whether the model writes texts.
        sensor: The band that stands in each of the ten channels.
        gsd_m: Pixel size on the ground, metres, where it is not the sensor's own.

    Raises:
        BadInputError: The checkpoint cannot take these bands.
    """
    import torch

    plain = len(image.slots) == len(BANDS) and tuple(sensor) == BANDS and gsd_m is None
    try:
        prediction = model.predict(
            torch.from_numpy(image.pixels)[None],
            legend,
            explain=explain,
            questions=list(prompts),
            bands=None if plain else [sensor[slot] for slot in image.slots],
            gsd_m=gsd_m,
        )
    except ModelInputError as error:
        there = " ".join(SENTINEL2_BANDS[slot] for slot in image.slots)
        raise BadInputError(f"the checkpoint cannot be asked about this chip (bands {there}): {error}") from error
    assert prediction.scores is not None
    height, width = image.shape
    scores = prediction.scores[0, :, :height, :width].float().cpu().numpy()
    texts, written = (list(rows[0]) if rows else [] for rows in (prediction.texts, prediction.written))
    return Answer(scores, texts, written)
