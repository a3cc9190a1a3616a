"""Numbers of the published implementation, where they are present beside the repository (never copied into it)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

FIXTURES = Path(__file__).parents[2].parent / "shared" / "spex-official"

needs_fixtures = pytest.mark.skipif(
    not (FIXTURES / "manifest.json").is_file(), reason="the published implementation's numbers are not present here"
)


@cache
def manifest() -> dict[str, Any]:
    return json.loads((FIXTURES / "manifest.json").read_text())


@cache
def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / f"{name}.safetensors")


def assert_matches(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """float64 within 1e-9; float32 within the fixtures' stated tolerance."""
    if expected.dtype == torch.float64:
        assert actual.dtype == torch.float64
        torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)
    else:
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)
