"""A small network that says of every pixel of one scene: clear, thick cloud, thin cloud, shadow or snow.

A U-Net of four levels (Ronneberger et al. 2015, arXiv 1505.04597) on six bands that most sensors share. This is the one
that is trained; :class:`~spex_core.cloud_detector.CloudDetector` is made of it and computes with whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from spex_core.cloud_classes import CHANNELS, CLOUD_CLASSES
from spex_core.errors import CheckpointError, ModelInputError

STEP_PX = 8
"""Images have sides that are multiples of this, and what the network says depends on a pixel's place modulo it."""
HALO_PX = 64
"""No pixel's answer looks farther; a multiple of :data:`STEP_PX`."""
DARKEST, BRIGHTEST = -0.02, 2.0
"""Reflectance is cut to this range."""
_LARGEST = 512


@dataclass(frozen=True)
class CloudNetworkConfig:
    """Widths of the levels at 1/2, 1/4 and 1/8 of the resolution, and convolutions at the coarsest."""

    widths: tuple[int, int, int] = (24, 40, 64)
    deep_layers: int = 4

    def __post_init__(self) -> None:
        numbers = (*self.widths, self.deep_layers)
        if len(self.widths) != 3 or not all(type(n) is int and 1 <= n <= _LARGEST for n in numbers):
            raise CheckpointError(f"a cloud network has three widths and a number of layers, not {numbers}")


class CloudNetwork(nn.Module):
    """Reflectance of some bands to logits of :data:`~spex_core.cloud_classes.CLOUD_CLASSES`."""

    def __init__(self, config: CloudNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or CloudNetworkConfig()
        first, second, third = self.config.widths
        self.stem = nn.Conv2d(len(CHANNELS), first, 3, 2, 1)
        self.presence = nn.Linear(len(CHANNELS), first)
        self.fine = nn.Sequential(nn.BatchNorm2d(first), nn.ReLU(), _layer(first, first))
        self.down_middle = _layer(first, second, stride=2)
        self.middle = _layer(second, second)
        self.down_deep = _layer(second, third, stride=2)
        self.deep = nn.Sequential(*[_layer(third, third) for _ in range(self.config.deep_layers)])
        self.up_middle = nn.Conv2d(third, second, 1)
        self.merge_middle = _layer(second, second)
        self.up_fine = nn.Conv2d(second, first, 1)
        self.merge_fine = _layer(first, first)
        self.head = nn.Conv2d(first, 4 * len(CLOUD_CLASSES), 1)

    def forward(self, reflectance: Tensor) -> Tensor:
        """Logits.

        Args:
            reflectance: float32 ``[N, 6, H, W]`` in the order of :data:`~spex_core.cloud_classes.CHANNELS`, 0..1 and
                more for bright cloud; a channel that is NaN throughout is missing, single NaN are no measurement.
                Height and width are multiples of :data:`STEP_PX`.

        Returns:
            float32 ``[N, 5, H, W]``.

        Raises:
            ModelInputError: Another shape.
        """
        check_shape(reflectance)
        missing = torch.isnan(reflectance)
        scaled = torch.where(missing, 0.0, scaled_reflectance(reflectance))
        present = (~missing.flatten(2).all(2)).to(scaled.dtype)
        fine = self.fine(self.stem(scaled) + self.presence(present)[:, :, None, None])
        middle = self.middle(self.down_middle(fine))
        deep = self.deep(self.down_deep(middle))
        middle = self.merge_middle(middle + doubled(self.up_middle(deep)))
        fine = self.merge_fine(fine + doubled(self.up_fine(middle)))
        return functional.pixel_shuffle(self.head(fine), 2)


def scaled_reflectance(reflectance: Tensor) -> Tensor:
    """What the first convolution is given: in logarithms a shadow is one step down, for dark ground and bright."""
    return (torch.log(reflectance.clamp(DARKEST, BRIGHTEST) + 0.05) + 1.7) / 0.8


def check_shape(reflectance: Tensor) -> None:
    """Raises :class:`ModelInputError` unless it is ``[N, 6, H, W]`` with sides that are multiples of the step."""
    sides = reflectance.shape[2:]
    if reflectance.ndim != 4 or reflectance.shape[1] != len(CHANNELS) or any(not n or n % STEP_PX for n in sides):
        raise ModelInputError(
            f"the cloud network takes [N, {len(CHANNELS)}, H, W] with sides that are multiples of {STEP_PX}, not "
            f"{list(reflectance.shape)}"
        )


def doubled(x: Tensor) -> Tensor:
    """Twice the height and width, each pixel four times."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def load_weights(network: CloudNetwork, path: Path) -> None:
    """Reads weights that ``safetensors.torch.save_model`` wrote, to go on training.

    Raises:
        CheckpointError: The file cannot be read, or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} holds no weights of this cloud network: {error}") from error


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )
