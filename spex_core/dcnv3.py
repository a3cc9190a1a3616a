"""Deformable convolution v3 (InternImage, arXiv 2211.05778): the core operation behind one function, and its module.

:func:`dcnv3` takes the Triton kernel of :mod:`spex_core.dcnv3_triton` for CUDA tensors that need no gradient, and the
portable path everywhere else. The portable path is the definition: the kernel is tested against it.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spex_core.dcnv3_sampling import Sampling
from spex_core.errors import ModelInputError

LAYER_NORM_EPS = 1e-6


def dcnv3(value: Tensor, offset: Tensor, mask: Tensor, sampling: Sampling, groups: int) -> Tensor:
    """Sum over K points of mask x bilinear sample, per group of channels; zero outside the map.

    Args:
        value: float ``[B, H, W, groups * c]``.
        offset: float ``[B, h, w, groups * K * 2]``, pixels, (x, y) per point; points are x-major: k = ix * rows + iy.
        mask: float ``[B, h, w, groups * K]``, already normalised.
        sampling: Kernel geometry; ``h, w`` is ``sampling.output_size(H, W)``.
        groups: Channel groups that share offsets and masks.

    Returns:
        float ``[B, h, w, groups * c]`` in the dtype of ``value``.

    Raises:
        ModelInputError: The shapes contradict each other.
    """
    _check_shapes(value, offset, mask, sampling, groups)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (value, offset, mask))
    if value.is_cuda and not needs_grad and find_spec("triton") is not None:
        from spex_core.dcnv3_triton import sample

        return sample(value, offset, mask, sampling, groups)
    return dcnv3_portable(value, offset, mask, sampling, groups)


def dcnv3_portable(value: Tensor, offset: Tensor, mask: Tensor, sampling: Sampling, groups: int) -> Tensor:
    """:func:`dcnv3` in plain PyTorch: any device, differentiable. Sampled in at least float32."""
    batch, height, width, channels = value.shape
    rows, cols = offset.shape[1:3]
    points = sampling.points
    dtype = torch.promote_types(value.dtype, torch.float32)
    base = _base_points(sampling, rows, cols, dtype, value.device)  # [h, w, K, 2]
    place = base[:, :, None] + offset.to(dtype).view(batch, rows, cols, groups, points, 2) * sampling.offset_scale
    # Not grid_sample: its normalised coordinates round, and at whole pixels the gradient then takes either side.
    low = place.detach().floor().nan_to_num(nan=-2.0)  # NaN stays in the weights, and indices stay in the map
    fraction = place - low
    x0, y0 = low.unbind(-1)
    right, down = fraction.unbind(-1)
    weights = mask.to(dtype).view(batch, rows, cols, groups, points)
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1) * (height * width)
    group = torch.arange(groups, device=value.device).view(-1, 1)
    corner_rows, corner_weights = [], []
    for x, wx in ((x0, 1 - right), (x0 + 1, right)):
        for y, wy in ((y0, 1 - down), (y0 + 1, down)):
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            pixel = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
            corner_rows.append((image + pixel) * groups + group)
            corner_weights.append(wx * wy * weights * inside)
    # A bag of 4 K weighted rows of c channels per output pixel and group: no [B, h, w, K, C] tensor is ever formed.
    bags = batch * rows * cols * groups
    summed = F.embedding_bag(
        torch.stack(corner_rows, dim=-1).view(bags, 4 * points),
        value.to(dtype).reshape(batch * height * width * groups, channels // groups),
        per_sample_weights=torch.stack(corner_weights, dim=-1).view(bags, 4 * points),
        mode="sum",
    )
    return summed.view(batch, rows, cols, channels).to(value.dtype)


class DCNv3(nn.Module):
    """DCNv3 layer: offsets and masks from a depthwise branch, deformable sampling between two linear maps.

    Args:
        channels: Width, a multiple of ``groups``.
        groups: Channel groups.
        sampling: Geometry of the points; stride 1 and "same" padding keep the size.
        depthwise_kernel: Kernel of the depthwise branch.
        centre_feature_scale: Blends the un-sampled features back in by a learnt gate per group (InternImage-H).
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        sampling: Sampling,
        depthwise_kernel: int = 3,
        centre_feature_scale: bool = False,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.sampling = sampling
        self.input_proj = nn.Linear(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, depthwise_kernel, padding=depthwise_kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.offset = nn.Linear(channels, groups * sampling.points * 2)
        self.mask = nn.Linear(channels, groups * sampling.points)
        self.output_proj = nn.Linear(channels, channels)
        self.centre_gate = nn.Linear(channels, groups) if centre_feature_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` → the same."""
        value = self.input_proj(x)
        branch = F.gelu(self.norm(self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        mask = self.mask(branch).unflatten(-1, (self.groups, -1)).softmax(-1).flatten(-2)
        sampled = dcnv3(value, self.offset(branch), mask, self.sampling, self.groups)
        if self.centre_gate is not None:
            gate = self.centre_gate(branch).sigmoid().repeat_interleave(x.shape[-1] // self.groups, dim=-1)
            sampled = torch.lerp(sampled, value, gate)
        out: Tensor = self.output_proj(sampled)
        return out


def _base_points(sampling: Sampling, rows: int, cols: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[rows, cols, K, 2]``: (x, y) of every point without offsets, in pixel indices of the input map."""
    axes = []
    for axis, size in ((1, cols), (0, rows)):
        centre = sampling.centre[axis]
        cell = torch.arange(size, dtype=dtype, device=device) * sampling.stride[axis] + centre - sampling.padding[axis]
        tap = torch.arange(sampling.kernel[axis], dtype=dtype, device=device) * sampling.dilation[axis] - centre
        axes.append(cell[:, None] + tap * sampling.offset_scale)
    x, y = axes  # [cols, kernel columns], [rows, kernel rows]
    shape = (rows, cols, x.shape[1], y.shape[1])  # x-major points
    return torch.stack([x[None, :, :, None].expand(shape), y[:, None, None, :].expand(shape)], dim=-1).reshape(
        rows, cols, -1, 2
    )


def _check_shapes(value: Tensor, offset: Tensor, mask: Tensor, sampling: Sampling, groups: int) -> None:
    batch, height, width, channels = value.shape
    if channels % groups:
        raise ModelInputError(f"dcnv3: {channels} channels do not divide into {groups} groups")
    cells = (batch, *sampling.output_size(height, width))
    for name, tensor, per_point in (("offset", offset, 2), ("mask", mask, 1)):
        expected = (*cells, groups * sampling.points * per_point)
        if tuple(tensor.shape) != expected:
            raise ModelInputError(f"dcnv3: {name} has shape {tuple(tensor.shape)}, expected {expected}")
