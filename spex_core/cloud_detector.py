"""The cloud network as it is used: weights and activations are whole numbers, so that sums are exact.

A convolution's sum depends on its order in the last digits, and libraries choose the order by the shape of the image:
two windows would disagree on pixels where two classes are nearly as likely, and a map would show how it was cut. Here
every weight is a whole number up to 127 and every activation one up to 255, as in networks of eight bits (Jacob et al.
2018, arXiv 1712.05877), and no sum reaches 2**24, up to which float32 knows every whole number: any order gives the
same. What lies between the convolutions is computed number by number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from spex_core.cloud_classes import CHANNELS, CHECKPOINT_TYPE, CLEAR, CLOUD_CLASSES, SHADOW
from spex_core.cloud_network import (
    BRIGHTEST,
    DARKEST,
    CloudNetwork,
    CloudNetworkConfig,
    check_shape,
    doubled,
    scaled_reflectance,
)
from spex_core.errors import CheckpointError

EXACT = 2**24
"""float32 holds every whole number up to this."""
WEIGHT_LEVELS, ACTIVATION_LEVELS, INPUT_LEVELS = 127, 255, 256
"""Largest weight, largest activation, and steps of the input per unit of its logarithmic scale."""
STEPS_PER_UNIT = 10_000
"""Steps of reflectance that the input tells apart: those of Sentinel-2's digital numbers."""
DARK_WATER = 0.05
"""Water reflects less at 1.6 µm. Measured on drawn labels: so are 99 % and 93 % of two scenes' water, and not one in a
thousand pixels of land in the shadow of a cloud."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_SEEN = 0.9999
"""Share of activations that the levels reach to."""
_UNIT = 4 / ACTIVATION_LEVELS
"""What a level is worth in a network made of a detector."""


class CloudDetector:
    """Made by :meth:`from_network` or :meth:`load`; used by :meth:`classes`."""

    def __init__(self, config: CloudNetworkConfig, tensors: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`save` writes.

        Raises:
            CheckpointError: A tensor is missing, of another shape, or a sum of its numbers may not be exact.
        """
        self.config = config
        self._tensors = dict(tensors)
        self._convolutions = {name: _checked(name, shape, tensors) for name, shape in _shapes(config).items()}
        reflectance = torch.arange(round(DARKEST * STEPS_PER_UNIT), round(BRIGHTEST * STEPS_PER_UNIT) + 1)
        table = scaled_reflectance(reflectance.to(torch.float64) / STEPS_PER_UNIT)
        self._input_levels = torch.round(table * INPUT_LEVELS).to(torch.float32)

    @torch.inference_mode()
    def classes(self, reflectance: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Most likely class of every pixel. What is water whether or not a shadow lies on it is clear, not shadow.

        Args:
            reflectance: float32 ``[6, H, W]`` as for :meth:`CloudNetwork.forward
                <spex_core.cloud_network.CloudNetwork.forward>`.

        Returns:
            uint8 ``[H, W]``, codes of :data:`~spex_core.cloud_classes.CLOUD_CLASSES`.

        Raises:
            ModelInputError: Another shape.
        """
        found = np.asarray(self.logits(torch.from_numpy(reflectance)[None]).argmax(1)[0].to(torch.uint8).numpy())
        found[(found == SHADOW) & _is_water(reflectance)] = CLEAR
        return found

    @torch.inference_mode()
    def logits(self, reflectance: Tensor) -> Tensor:
        """As :meth:`CloudNetwork.forward <spex_core.cloud_network.CloudNetwork.forward>`, rounded."""
        check_shape(reflectance)
        missing = torch.isnan(reflectance)
        steps = torch.nan_to_num(reflectance).clamp_(DARKEST, BRIGHTEST).mul_(STEPS_PER_UNIT).round_()
        levels = self._input_levels[steps.to(torch.int64) - round(DARKEST * STEPS_PER_UNIT)]
        levels[missing] = 0
        present = (~missing.flatten(2).all(2)).to(torch.float32)
        bias = (present[:, None, :] * self._tensors["presence"]).sum(2)
        fine = _levels(self._convolved("stem", levels, 2).add_(bias[:, :, None, None]))
        fine = self._layer("fine", fine)
        middle = self._layer("middle", self._layer("down_middle", fine, 2))
        deep = self._layer("down_deep", middle, 2)
        for layer in range(self.config.deep_layers):
            deep = self._layer(f"deep.{layer}", deep)
        middle = self._layer("merge_middle", self._merged("middle", middle, self._convolved("up_middle", deep)))
        fine = self._layer("merge_fine", self._merged("fine", fine, self._convolved("up_fine", middle)))
        return functional.pixel_shuffle(self._convolved("head", fine), 2)

    def _convolved(self, name: str, levels: Tensor, stride: int = 1) -> Tensor:
        weight, scale, bias = self._convolutions[name]
        padding = weight.shape[-1] // 2
        return functional.conv2d(levels, weight, None, stride, padding).mul_(scale).add_(bias)

    def _layer(self, name: str, levels: Tensor, stride: int = 1) -> Tensor:
        return _levels(self._convolved(name, levels, stride))

    def _merged(self, name: str, levels: Tensor, below: Tensor) -> Tensor:
        """Two ways that meet, in the levels of what comes next; may be negative."""
        merged = (levels * self._tensors[f"skip.{name}"]).add_(doubled(below))
        return merged.round_().clamp_(-ACTIVATION_LEVELS, ACTIVATION_LEVELS)

    @classmethod
    def from_network(cls, network: CloudNetwork, examples: Iterable[Tensor]) -> CloudDetector:
        """Rounds a trained network.

        Args:
            network: Trained.
            examples: Batches as it was trained on; the largest activations among them set the levels.
        """
        network = network.eval()
        folded = _folded(network)
        reach = _reach(network, examples)
        tensors: dict[str, Tensor] = {}
        for name, (weight, bias) in folded.items():
            step_in = 1 / INPUT_LEVELS if name == "stem" else reach[_fed_by(name, network.config)]
            step_out = reach.get(name, 1.0)
            # Of wide layers fewer levels are used, so that the sums stay exact; rounding adds half a level a number.
            room = EXACT / _largest_input(name) - 0.5 * weight[0].numel() - 1
            step = torch.maximum(weight.abs().amax((1, 2, 3)) / WEIGHT_LEVELS, weight.abs().sum((1, 2, 3)) / room)
            step = step.clamp(min=1e-12)
            tensors[f"{name}.weight"] = torch.round(weight / step[:, None, None, None]).to(torch.int8)
            tensors[f"{name}.scale"] = (step * step_in / step_out).to(torch.float32)
            tensors[f"{name}.bias"] = (bias / step_out).to(torch.float32)
        tensors["presence"] = (_presence(network) / reach["stem"]).to(torch.float32)
        for name in ("middle", "fine"):
            tensors[f"skip.{name}"] = torch.tensor(reach[name] / reach[f"up_{name}"], dtype=torch.float32)
        return cls(network.config, tensors)

    @torch.no_grad()
    def to_network(self) -> CloudNetwork:
        """The network again, to go on training: float32, its normalisations without effect, rounded as this is.

        Scales of activations are not what they were; what comes out is the same, up to the rounding of activations.
        """
        network = CloudNetwork(self.config).eval()
        layers, plain = _layers_of(network), {name: getattr(network, name) for name in ("up_middle", "up_fine", "head")}
        unit = dict.fromkeys(self._convolutions, _UNIT) | {"head": 1.0}
        for name in ("middle", "fine"):
            unit[f"up_{name}"] = _UNIT / float(self._tensors[f"skip.{name}"])
        for name, (weight, scale, bias) in self._convolutions.items():
            fed = 1 / INPUT_LEVELS if name == "stem" else unit[_fed_by(name, self.config)]
            weight, bias = weight * scale[:, None] * (unit[name] / fed), bias.flatten() * unit[name]
            if name in plain:
                plain[name].weight.copy_(weight)
                plain[name].bias.copy_(bias)
                continue
            convolution, normalisation = layers[name]
            convolution.weight.copy_(weight)
            if convolution.bias is not None:
                convolution.bias.zero_()
            normalisation.bias.copy_(bias)
            assert normalisation.running_var is not None
            normalisation.running_var.fill_(1 - normalisation.eps)
        network.presence.weight.copy_(self._tensors["presence"] * _UNIT)
        network.presence.bias.zero_()
        return network

    def save(self, folder: Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        data = {"model_type": CHECKPOINT_TYPE, "channels": CHANNELS, "classes": CLOUD_CLASSES, **asdict(self.config)}
        (folder / CONFIG).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in self._tensors.items()}, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> CloudDetector:
        """Reads a folder that :meth:`save` wrote.

        Raises:
            CheckpointError: The folder holds no cloud network, or a damaged one.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        config = _config_of(folder)
        try:
            return cls(config, load_file(folder / WEIGHTS))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{folder / WEIGHTS}: {error}") from error


def _is_water(reflectance: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Greener than it is bright in near infrared, and dark beyond: no land is, in the sun or in a shadow."""
    green, infrared, beyond = reflectance[1], reflectance[3], reflectance[4]
    with np.errstate(invalid="ignore"):
        return np.asarray((green > infrared) & (beyond < DARK_WATER))


def _levels(x: Tensor) -> Tensor:
    return x.round_().clamp_(0, ACTIVATION_LEVELS)


# --- a checkpoint -------------------------------------------------------------------------------------------------


def _config_of(folder: Path) -> CloudNetworkConfig:
    path = folder / CONFIG
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind != CHECKPOINT_TYPE:
        raise CheckpointError(f"{folder} is a checkpoint of type {kind!r}, not {CHECKPOINT_TYPE!r}")
    for key, known in (("channels", CHANNELS), ("classes", CLOUD_CLASSES)):
        if data.get(key) != list(known):
            raise CheckpointError(f"{path}: {key} are not: {', '.join(known)}")
    widths = data.get("widths")
    return CloudNetworkConfig(tuple(widths) if isinstance(widths, list) else (), data.get("deep_layers", 0))


def _shapes(config: CloudNetworkConfig) -> dict[str, tuple[int, int, int]]:
    """Convolution → outputs, inputs, side."""
    first, second, third = config.widths
    return {
        "stem": (first, len(CHANNELS), 3),
        "fine": (first, first, 3),
        "down_middle": (second, first, 3),
        "middle": (second, second, 3),
        "down_deep": (third, second, 3),
        **{f"deep.{i}": (third, third, 3) for i in range(config.deep_layers)},
        "up_middle": (second, third, 1),
        "merge_middle": (second, second, 3),
        "up_fine": (first, second, 1),
        "merge_fine": (first, first, 3),
        "head": (4 * len(CLOUD_CLASSES), first, 1),
    }


def _largest_input(name: str) -> int:
    """Largest whole number that a convolution is given: the input's scale reaches from -3 to 4."""
    return INPUT_LEVELS * 4 if name == "stem" else ACTIVATION_LEVELS


def _checked(name: str, shape: tuple[int, int, int], tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    outputs, inputs, side = shape
    wanted = {
        f"{name}.weight": ((outputs, inputs, side, side), torch.int8),
        f"{name}.scale": ((outputs,), torch.float32),
        f"{name}.bias": ((outputs,), torch.float32),
    }
    if name == "stem":
        wanted["presence"] = ((outputs, inputs), torch.float32)
        wanted |= {f"skip.{way}": ((), torch.float32) for way in ("middle", "fine")}
    for key, (size, kind) in wanted.items():
        tensor = tensors.get(key)
        if tensor is None or tuple(tensor.shape) != size or tensor.dtype != kind:
            raise CheckpointError(f"{key} is not {kind} of shape {list(size)}")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{key} holds numbers that are not finite")
    weight = tensors[f"{name}.weight"].to(torch.float32)
    if float(weight.abs().sum((1, 2, 3)).max()) * _largest_input(name) >= EXACT:
        raise CheckpointError(f"{name}.weight: its sums may reach {EXACT}, beyond which they are not exact")
    scale, bias = (tensors[f"{name}.{part}"][:, None, None] for part in ("scale", "bias"))
    return weight, scale, bias


# --- from a trained network ---------------------------------------------------------------------------------------


def _fed_by(name: str, config: CloudNetworkConfig) -> str:
    """Convolution whose levels another one is given; those of ``up_*`` are of the sum of both ways."""
    if name in ("merge_middle", "merge_fine"):
        return name.replace("merge", "up")
    order = ["stem", *(n for n in _shapes(config) if n != "stem")]
    return order[order.index(name) - 1]


def _folded(network: CloudNetwork) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and biases with the normalisation behind each convolution taken in, in float64."""
    found = {name: _with_normalisation(*layer) for name, layer in _layers_of(network).items()}
    weight, bias = found["stem"]
    normalisation = _layers_of(network)["stem"][1]
    found["stem"] = weight, bias + network.presence.bias.detach().double() * _gain(normalisation)
    for name in ("up_middle", "up_fine", "head"):
        convolution = getattr(network, name)
        found[name] = convolution.weight.detach().double(), convolution.bias.detach().double()
    return found


def _activated(network: CloudNetwork) -> dict[str, Any]:
    """Convolution, normalisation and activation by name, all but those of the stem."""
    return {
        "fine": network.fine[2],
        **{name: getattr(network, name) for name in ("down_middle", "middle", "down_deep")},
        **{f"deep.{i}": layer for i, layer in enumerate(network.deep)},
        **{name: getattr(network, name) for name in ("merge_middle", "merge_fine")},
    }


def _layers_of(network: CloudNetwork) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions with a normalisation behind them; to that of the stem, what channels are there is added before."""
    parts: dict[str, tuple[nn.Module, nn.Module]] = {"stem": (network.stem, network.fine[0])}
    parts |= {name: (layer[0], layer[1]) for name, layer in _activated(network).items()}
    found = {}
    for name, (convolution, normalisation) in parts.items():
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(normalisation, nn.BatchNorm2d)
        found[name] = convolution, normalisation
    return found


def _with_normalisation(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    gain = _gain(normalisation)
    bias = torch.zeros_like(gain) if convolution.bias is None else convolution.bias.detach().double()
    assert normalisation.running_mean is not None
    shifted = (bias - normalisation.running_mean.double()) * gain + normalisation.bias.detach().double()
    return convolution.weight.detach().double() * gain[:, None, None, None], shifted


def _gain(normalisation: nn.BatchNorm2d) -> Tensor:
    assert normalisation.running_var is not None
    gain: Tensor = normalisation.weight.detach().double() / torch.sqrt(
        normalisation.running_var.double() + normalisation.eps
    )
    return gain


def _presence(network: CloudNetwork) -> Tensor:
    """float64 ``[first, 6]``: what each channel that is there adds behind the stem."""
    normalisation = network.fine[0]
    assert isinstance(normalisation, nn.BatchNorm2d)
    return network.presence.weight.detach().double() * _gain(normalisation)[:, None]


@torch.no_grad()
def _reach(network: CloudNetwork, examples: Iterable[Tensor]) -> dict[str, float]:
    """Step of the levels behind each convolution, from what a network's own activations reach."""
    watched: dict[str, nn.Module] = {"stem": network.fine[1], **_activated(network)}
    before: dict[str, nn.Module] = {"up_middle": network.merge_middle, "up_fine": network.merge_fine}
    largest: dict[str, float] = {}

    def note(name: str, values: Tensor) -> None:
        some = values.abs().flatten()
        rank = max(1, round(len(some) * _SEEN))
        largest[name] = max(largest.get(name, 1e-6), float(some.kthvalue(rank).values))

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in watched.items()
    ] + [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, module in before.items()
    ]
    try:
        for batch in examples:
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: value / ACTIVATION_LEVELS for name, value in largest.items()}
