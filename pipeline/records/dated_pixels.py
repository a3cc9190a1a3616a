"""What a block's model is given where its dates are classified one by one (``composite.method: fuse``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DatedPixels:
    """The dates of a window, packed into as many layers as a pixel can have observations.

    A date is a pass of a satellite. A window can meet more passes than a pixel has observations; they share layers
    where they lie beside each other, so memory is that of the layers.
    """

    composite: FloatArray
    """float32 ``[10, h, w]``: the median of the dates, NaN where nothing was observed. What surrounds a date's
    pixels, and what is classified where no single date stands."""
    layers: FloatArray
    """float32 ``[n, 10, h, w]``; its values count where :attr:`numbers` names a date."""
    numbers: npt.NDArray[np.uint16]
    """uint16 ``[n, h, w]``: the date of a layer's pixel, 1, 2, ... in order of time; 0: none. A date stands in one
    layer of a pixel at most."""

    def cut(self, rows: slice, columns: slice) -> DatedPixels:
        """The same of a rectangle, as views."""
        at = (..., rows, columns)
        return DatedPixels(self.composite[at], self.layers[at], self.numbers[at])

    def dates(self) -> list[int]:
        """Numbers of the dates that have a pixel here, ascending."""
        return [int(number) for number in np.unique(self.numbers) if number]

    def image(self, number: int) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """One date, and the composite around it.

        Returns:
            float32 ``[10, h, w]``, and bool ``[h, w]``: which pixels are the date's own.
        """
        image = self.composite.copy()
        own = np.zeros(self.numbers.shape[1:], np.bool_)
        for layer, numbers in zip(self.layers, self.numbers, strict=True):
            here = numbers == number
            if here.any():
                np.copyto(image, layer, where=here)
                own |= here
        return image, own
