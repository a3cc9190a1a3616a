"""Several numbers per pixel in few layers: which passes saw a pixel, and which scenes it takes.

Memory is that of the layers, two bytes a pixel each, however many scenes there are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Bool = npt.NDArray[np.bool_]
_Place = tuple[slice, slice]


class NumberLayers:
    """At most ``limit`` numbers (1..65535) per pixel, each in a layer of its own; 0 where a layer has none."""

    def __init__(self, shape: tuple[int, int], limit: int) -> None:
        self._shape = shape
        self._limit = limit
        self._layers: list[npt.NDArray[np.uint16]] = []

    def __len__(self) -> int:
        """Layers in use."""
        return len(self._layers)

    def add(self, number: int, at: _Place, pixels: _Bool) -> list[int]:
        """Gives a number to some pixels of a place, and says in which layers it now stands.

        It goes whole into the first layer where all of these pixels are free; where ``limit`` layers have no room for
        it as a whole, pixel by pixel.

        Args:
            number: Not given to any of the pixels before.
            at: Rows and columns of a rectangle.
            pixels: bool, the shape of the rectangle; each has fewer than ``limit`` numbers so far.
        """
        for index, layer in enumerate(self._layers):
            if not ((layer[at] != 0) & pixels).any():
                layer[at][pixels] = number
                return [index]
        if len(self._layers) < self._limit:
            self._layers.append(np.zeros(self._shape, np.uint16))
            self._layers[-1][at][pixels] = number
            return [len(self._layers) - 1]
        found = []
        for index, layer in enumerate(self._layers):
            free = pixels & (layer[at] == 0)
            if free.any():
                layer[at][free] = number
                pixels = pixels & ~free
                found.append(index)
        return found

    def holds(self, number: int, at: _Place) -> _Bool:
        """bool: which pixels of a place have the number."""
        found = np.zeros((at[0].stop - at[0].start, at[1].stop - at[1].start), bool)
        for layer in self._layers:
            found |= layer[at] == number
        return found

    def holds_in(self, index: int, number: int, at: _Place) -> _Bool:
        """bool: which pixels of a place have the number in one layer."""
        return np.asarray(self._layers[index][at] == number)

    def translated(self, meaning: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        """uint16 [n, h, w]: every layer with its numbers replaced.

        Args:
            meaning: What stands for each number, from 0 (no number) on.
        """
        return np.stack([meaning[layer] for layer in self._layers])

    def count(self) -> npt.NDArray[np.uint8]:
        """uint8 [h, w]: numbers per pixel."""
        total = np.zeros(self._shape, np.uint8)
        for layer in self._layers:
            total += layer != 0
        return total
