"""DCNv3 on CUDA: one Triton kernel that samples, weighs and sums without writing a sampled tensor (forward only).

The definition is :func:`spex_core.dcnv3.dcnv3_portable`; the tests run this kernel against it, on a GPU where there is
one and through Triton's interpreter (``TRITON_INTERPRET=1``) everywhere else.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from spex_core.dcnv3_sampling import Sampling

CELLS_PER_PROGRAM = 32


def sample(value: Tensor, offset: Tensor, mask: Tensor, sampling: Sampling, groups: int) -> Tensor:
    """:func:`spex_core.dcnv3.dcnv3` without gradients; shapes as there, already checked.

    Positions and sums are float32 (float64 for float64 values), whatever the dtype of the values.
    """
    value, offset, mask = value.contiguous(), offset.contiguous(), mask.contiguous()
    batch, height, width, channels = value.shape
    rows, cols = offset.shape[1:3]
    per_group = channels // groups
    out = torch.empty(batch, rows, cols, channels, dtype=value.dtype, device=value.device)
    cells = batch * rows * cols
    if cells == 0:
        return out
    centre_y, centre_x = sampling.centre
    with torch.cuda.device(value.device) if value.is_cuda else nullcontext():
        _sample_kernel[(triton.cdiv(cells, CELLS_PER_PROGRAM), groups)](
            value,
            offset,
            mask,
            out,
            cells,
            height,
            width,
            rows,
            cols,
            groups,
            PER_GROUP=per_group,
            PADDED_PER_GROUP=triton.next_power_of_2(per_group),
            KERNEL_Y=sampling.kernel[0],
            KERNEL_X=sampling.kernel[1],
            STRIDE_Y=sampling.stride[0],
            STRIDE_X=sampling.stride[1],
            ORIGIN_Y=centre_y - sampling.padding[0],
            ORIGIN_X=centre_x - sampling.padding[1],
            DILATION_Y=sampling.dilation[0],
            DILATION_X=sampling.dilation[1],
            CENTRE_Y=centre_y,
            CENTRE_X=centre_x,
            SCALE=float(sampling.offset_scale),
            CELLS=CELLS_PER_PROGRAM,
            COMPUTE=tl.float64 if value.dtype == torch.float64 else tl.float32,
        )
    return out


@triton.jit
def _sample_kernel(
    value,
    offset,
    mask,
    out,
    cells,
    height,
    width,
    rows,
    cols,
    groups,
    PER_GROUP: tl.constexpr,
    PADDED_PER_GROUP: tl.constexpr,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    ORIGIN_Y: tl.constexpr,
    ORIGIN_X: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    CENTRE_Y: tl.constexpr,
    CENTRE_X: tl.constexpr,
    SCALE: tl.constexpr,
    CELLS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    POINTS: tl.constexpr = KERNEL_Y * KERNEL_X
    # 64-bit: cells x channels of a large batch does not fit 32.
    cell = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    group = tl.program_id(1)
    live = cell < cells
    column = cell % cols
    row = (cell // cols) % rows
    image = (cell // (cols * rows)) * height * width
    lane = tl.arange(0, PADDED_PER_GROUP)
    channel = group * PER_GROUP + lane
    real = lane < PER_GROUP
    stride = groups * PER_GROUP
    base_x = (column * STRIDE_X + ORIGIN_X).to(COMPUTE)
    base_y = (row * STRIDE_Y + ORIGIN_Y).to(COMPUTE)
    first = (cell * groups + group) * POINTS
    total = tl.zeros((CELLS, PADDED_PER_GROUP), COMPUTE)
    for tap_x in tl.static_range(KERNEL_X):
        for tap_y in tl.static_range(KERNEL_Y):
            point = first + tap_x * KERNEL_Y + tap_y  # x-major
            dx = tl.load(offset + 2 * point, mask=live, other=0.0).to(COMPUTE)
            dy = tl.load(offset + 2 * point + 1, mask=live, other=0.0).to(COMPUTE)
            weight = tl.load(mask + point, mask=live, other=0.0).to(COMPUTE)
            x = base_x + (tap_x * DILATION_X - CENTRE_X + dx) * SCALE
            y = base_y + (tap_y * DILATION_Y - CENTRE_Y + dy) * SCALE
            x0 = tl.floor(x)
            y0 = tl.floor(y)
            for corner in tl.static_range(4):
                corner_x = x0 + corner // 2
                corner_y = y0 + corner % 2
                share = weight * (1 - tl.abs(x - corner_x)) * (1 - tl.abs(y - corner_y))
                # Compared as floats: a far or NaN position never becomes an index.
                inside = live & (corner_x >= 0) & (corner_x < width) & (corner_y >= 0) & (corner_y < height)
                pixel = tl.where(inside, corner_y, 0.0).to(tl.int64) * width
                pixel += tl.where(inside, corner_x, 0.0).to(tl.int64)
                source = value + ((image + pixel) * stride)[:, None] + channel[None, :]
                loaded = tl.load(source, mask=inside[:, None] & real[None, :], other=0.0).to(COMPUTE)
                total += loaded * tl.where(inside, share, 0.0)[:, None]
    target = out + cell[:, None] * stride + channel[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=live[:, None] & real[None, :])
