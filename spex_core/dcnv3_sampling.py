"""Where a deformable convolution samples: the geometry that the portable path and the kernel share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Where the points of a DCNv3 lie. Pairs are (vertical, horizontal)."""

    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    offset_scale: float = 1.0
    """Multiplies the learnt offsets and the point grid alike: at 2, zero offsets sample at -2, 0 and +2."""

    @property
    def points(self) -> int:
        """Points per output pixel."""
        return self.kernel[0] * self.kernel[1]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output for an input of ``height`` x ``width``."""
        rows, cols = (
            (size + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1
            for axis, size in enumerate((height, width))
        )
        return rows, cols

    @property
    def centre(self) -> tuple[int, int]:
        """Distance from the first point of the kernel to its centre, pixels."""
        rows, cols = (self.dilation[axis] * (self.kernel[axis] - 1) // 2 for axis in (0, 1))
        return rows, cols
