"""Are pixel values surface reflectance? Digital numbers and percent are refused, before they make a confident map."""

from __future__ import annotations

import torch
from torch import Tensor

from spex_core.errors import ModelInputError

PLAUSIBLE = (-0.3, 1.6)
"""Reflectance of nearly everything: over-corrected shadows, and clouds with the sun behind one."""
EXTREME = 20.0
"""No pixel comes near it, however saturated: 65535 digital numbers are 6.5."""


def check_reflectance(pixel_values: Tensor) -> None:
    """Raises :class:`ModelInputError` unless values are finite and can be surface reflectance.

    Single pixels may be saturated; half of all values may not.

    Args:
        pixel_values: float, any shape.
    """
    if not pixel_values.numel():
        return
    low, high = (float(v) for v in torch.aminmax(pixel_values))
    if not torch.isfinite(torch.tensor([low, high])).all():
        raise ModelInputError("pixel_values holds NaN or infinity; fill missing pixels before the model sees them")
    if low >= PLAUSIBLE[0] and high <= PLAUSIBLE[1]:
        return
    outside = (pixel_values < PLAUSIBLE[0]) | (pixel_values > PLAUSIBLE[1])
    if max(-low, high) > EXTREME or float(outside.float().mean()) > 0.5:
        raise ModelInputError(
            f"pixel_values from {low:g} to {high:g} cannot be surface reflectance (0..1 typical): digital numbers need "
            "DN * scale + offset, percent needs / 100, and missing pixels must be filled"
        )
