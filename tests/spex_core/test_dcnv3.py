from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spex_core.dcnv3 import DCNv3, dcnv3
from spex_core.dcnv3_sampling import Sampling
from spex_core.errors import ModelInputError
from tests.spex_core.official_fixtures import FIXTURES, assert_matches, manifest, needs_fixtures, tensors

OP_CASES = sorted(manifest()["dcnv3_cases"]) if FIXTURES.is_dir() else []
MODULE_CASES = sorted(manifest()["dcnv3_modules"]) if FIXTURES.is_dir() else []


def by_definition(value, offset, mask, sampling: Sampling, groups: int) -> torch.Tensor:
    """The formula, one pixel at a time."""
    batch, height, width, channels = value.shape
    rows, cols = sampling.output_size(height, width)
    value = value.view(batch, height, width, groups, -1)
    offset = offset.view(batch, rows, cols, groups, -1, 2)
    mask = mask.view(batch, rows, cols, groups, -1)
    out = torch.zeros(batch, rows, cols, groups, value.shape[-1], dtype=value.dtype)
    cy, cx = (sampling.dilation[a] * (sampling.kernel[a] - 1) // 2 for a in (0, 1))
    for b, i, j, g, k in torch.cartesian_prod(*(torch.arange(n) for n in mask.shape)).tolist():
        ix, iy = divmod(k, sampling.kernel[0])
        dx, dy = offset[b, i, j, g, k].tolist()
        x = j * sampling.stride[1] + cx - sampling.padding[1]
        y = i * sampling.stride[0] + cy - sampling.padding[0]
        x += (ix * sampling.dilation[1] - cx + dx) * sampling.offset_scale
        y += (iy * sampling.dilation[0] - cy + dy) * sampling.offset_scale
        for py in range(height):
            for px in range(width):
                weight = max(0.0, 1 - abs(x - px)) * max(0.0, 1 - abs(y - py))
                out[b, i, j, g] += weight * mask[b, i, j, g, k] * value[b, py, px, g]
    return out.view(batch, rows, cols, channels)


def random_case(sampling: Sampling, groups: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    height, width = 6, 5
    rows, cols = sampling.output_size(height, width)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in (
            (2, height, width, groups * 3),
            (2, rows, cols, groups * sampling.points * 2),
            (2, rows, cols, groups * sampling.points),
        )
    ]


SAMPLINGS = [
    Sampling(offset_scale=2.0),
    Sampling(kernel=(3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 1), offset_scale=0.7),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_portable_path_equals_the_definition(sampling: Sampling) -> None:
    case = random_case(sampling, groups=2)
    torch.testing.assert_close(dcnv3(*case, sampling, 2), by_definition(*case, sampling, 2), atol=1e-12, rtol=0)


def test_gradients_equal_finite_differences() -> None:
    sampling = SAMPLINGS[1]
    case = [tensor[:1].requires_grad_() for tensor in random_case(sampling, groups=2)]
    assert torch.autograd.gradcheck(lambda *t: dcnv3(*t, sampling, 2), case)


def test_points_outside_the_map_and_lost_offsets_do_not_crash() -> None:
    value, offset, mask = random_case(SAMPLINGS[0], groups=2)
    assert torch.count_nonzero(dcnv3(value, offset + 1e30, mask, SAMPLINGS[0], 2)) == 0
    assert dcnv3(value, offset * torch.nan, mask, SAMPLINGS[0], 2).isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, o, m: (v[..., :5], o, m), "5 channels do not divide into 2 groups"),
        (lambda v, o, m: (v, o[..., :-2], m), "offset has shape"),
        (lambda v, o, m: (v, o, m[:, :2]), "mask has shape"),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(change, message: str) -> None:
    with pytest.raises(ModelInputError, match=message):
        dcnv3(*change(*random_case(SAMPLINGS[0], groups=2)), SAMPLINGS[0], 2)


def published_case(name: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], Sampling, int]:
    case = manifest()["dcnv3_cases"][name]
    pairs = ((case[f"{field}_h"], case[f"{field}_w"]) for field in ("kernel", "stride", "pad", "dilation"))
    stored = tensors("dcnv3_op")
    values = [stored[f"{name}.{part}"].to(dtype) for part in ("input", "offset", "mask")]
    return values, Sampling(*pairs, offset_scale=case["offset_scale"]), case["group"]


@needs_fixtures
@pytest.mark.parametrize("name", OP_CASES)
def test_the_operation_equals_the_published_one(name: str) -> None:
    stored = tensors("dcnv3_op")
    values, sampling, groups = published_case(name, torch.float32)
    assert_matches(dcnv3(*values, sampling, groups), stored[f"{name}.out_f32"])
    values, sampling, groups = published_case(name, torch.float64)
    for value in values:
        value.requires_grad_()
    out = dcnv3(*values, sampling, groups)
    assert_matches(out, stored[f"{name}.out_f64"])
    out.backward(stored[f"{name}.grad_out"].double())
    for value, part in zip(values, ("input", "offset", "mask"), strict=True):
        assert_matches(value.grad, stored[f"{name}.grad_{part}_f64"])


@needs_fixtures
@pytest.mark.parametrize("name", MODULE_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_layer_equals_the_published_one(name: str, dtype: torch.dtype) -> None:
    case, stored = manifest()["dcnv3_modules"][name], tensors("dcnv3_module")
    layer = DCNv3(
        case["channels"],
        case["group"],
        Sampling(offset_scale=case["offset_scale"]),
        depthwise_kernel=case.get("dw_kernel_size", 3),
        centre_feature_scale=case.get("center_feature_scale", False),
    )
    ours = {"dw_conv.0": "depthwise", "dw_conv.1.1": "norm", "center_feature_scale_proj_": "centre_gate."}
    state = {}
    for key, tensor in stored.items():
        if key.startswith(f"{name}.state."):
            key = key.removeprefix(f"{name}.state.")
            for old, new in ours.items():
                key = key.replace(old, new)
            state[key] = tensor
    layer.load_state_dict(state)
    with torch.no_grad():
        out = layer.to(dtype)(stored[f"{name}.input"].to(dtype))
    assert_matches(out, stored[f"{name}.out_{'f64' if dtype == torch.float64 else 'f32'}"])


INTERPRETED = """
import torch
from spex_core.dcnv3 import dcnv3_portable
from spex_core.dcnv3_triton import sample
from tests.spex_core.test_dcnv3 import SAMPLINGS, random_case
for sampling in SAMPLINGS:
    case = random_case(sampling, groups=2)
    case[1][0, 0, 0, :2] = 1e30
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        values = [tensor.to(dtype) for tensor in case]
        values[0] = values[0].transpose(1, 2).contiguous().transpose(1, 2)  # strides of another layout
        expected = dcnv3_portable(*values, sampling, 2)
        torch.testing.assert_close(sample(*values, sampling, 2), expected, atol=tolerance, rtol=tolerance)
print("equal")
"""

COMPILED = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from spex_core.dcnv3_triton import _sample_kernel as kernel
fixed = dict(PER_GROUP=16, PADDED_PER_GROUP=16, KERNEL_Y=3, KERNEL_X=3, STRIDE_Y=1, STRIDE_X=1, ORIGIN_Y=0, ORIGIN_X=0,
             DILATION_Y=1, DILATION_X=1, CENTRE_Y=1, CENTRE_X=1, SCALE=2.0, CELLS=32, COMPUTE=tl.float32)
names = kernel.arg_names
kinds = {n: "constexpr" if n in fixed else "*bf16" if n in ("value", "offset", "mask", "out") else "i32" for n in names}
source = ASTSource(fn=kernel, signature=kinds, constexprs={(names.index(n),): v for n, v in fixed.items()})
print(len(triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]) > 0)
"""


def run_python(script: str, **environment: str) -> str:
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_the_triton_kernel_equals_the_portable_path_in_the_interpreter() -> None:
    assert run_python(INTERPRETED, TRITON_INTERPRET="1") == "equal"


def test_the_triton_kernel_compiles_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    assert run_python(COMPILED, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)) == "True"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_cuda_tensors_take_the_kernel_and_agree(sampling: Sampling) -> None:
    case = [tensor.float() for tensor in random_case(sampling, groups=2)]
    on_device = dcnv3(*(tensor.cuda() for tensor in case), sampling, 2).cpu()
    torch.testing.assert_close(on_device, dcnv3(*case, sampling, 2), atol=1e-5, rtol=1e-5)
