"""Reading published weights: safetensors or ``.bin``, single or in shards, and LoRA adapters on a base.

Tensors are read one at a time from memory-mapped files. Pickles are opened with ``weights_only=True`` only.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spex_core.errors import CheckpointError
from spex_core.weight_files import WEIGHTS, weight_files

LORA_CONFIG = "adapter_config.json"
NON_LORA_FILE = "non_lora_trainables.bin"
_PEFT_PREFIX = "base_model.model."


class OfficialWeights(Protocol):
    """Published weights by published key."""

    folder: Path
    document: dict[str, Any]
    """The published config.json."""
    base_folder: Path | None

    def names(self) -> Collection[str]:
        """Every key, in file order."""
        ...

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a weight, without reading it where the format allows."""
        ...

    def tensor(self, key: str) -> Tensor:
        """The weight, on the CPU, in its stored dtype."""
        ...


@contextmanager
def open_weights(folder: Path, base: Path | None) -> Iterator[OfficialWeights]:
    """Opens a full folder, or a LoRA folder together with the folder it adapts.

    Raises:
        CheckpointError: Something is missing, corrupt, or not weights.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder with a published checkpoint")
    with ExitStack() as stack:
        if (folder / LORA_CONFIG).is_file():
            adapter = _read_json(folder / LORA_CONFIG)
            named = base or Path(str(adapter.get("base_model_name_or_path") or ""))
            if not (named / "config.json").is_file():
                raise CheckpointError(f"{folder} adapts {str(named)!r}, which is not a local folder: name it with base")
            yield _AdaptedWeights(folder, adapter, _FolderWeights(named, stack), stack)
        else:
            yield _FolderWeights(folder, stack)


class _FolderWeights:
    """All weight files of one folder."""

    base_folder: Path | None = None

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.document = _read_json(folder / "config.json")
        self._files: dict[str, _WeightFile] = {}
        for path in _weight_files(folder):
            file = _open_file(path, stack)
            for key in file.names():
                if key in self._files:
                    raise CheckpointError(f"{path}: {key} is in another file of the checkpoint, too")
                self._files[key] = file

    def names(self) -> Collection[str]:
        return self._files.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._files[key].shape(key)

    def tensor(self, key: str) -> Tensor:
        return self._files[key].tensor(key)


class _AdaptedWeights:
    """A base, weights trained beside the adapter, and the low-rank updates of linear layers."""

    def __init__(self, folder: Path, adapter: dict[str, Any], base: _FolderWeights, stack: ExitStack) -> None:
        self.folder = folder
        self.base_folder: Path | None = base.folder
        self._base = base
        own = folder / "config.json"
        self.document = _read_json(own) if own.is_file() else base.document
        variants = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")
        unsupported = [name for name in variants if adapter.get(name)]
        if adapter.get("bias", "none") != "none":
            unsupported.append("bias")
        if str(adapter.get("peft_type", "LORA")).upper() != "LORA" or unsupported:
            found = ", ".join(unsupported) or "this type"
            raise CheckpointError(f"{folder / LORA_CONFIG}: plain LoRA only, not {found}")
        try:
            rank, alpha = int(adapter["r"]), float(adapter["lora_alpha"])
            self._scale = alpha / (math.sqrt(rank) if adapter.get("use_rslora") else rank)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"{folder / LORA_CONFIG} has no usable r and lora_alpha: {error}") from error
        self._trained: dict[str, tuple[_WeightFile, str]] = {}
        if (folder / NON_LORA_FILE).is_file():
            file = _open_file(folder / NON_LORA_FILE, stack)
            self._trained = {key.removeprefix(_PEFT_PREFIX): (file, key) for key in file.names()}
        self._updates: dict[str, dict[str, Tensor]] = {}
        for key, tensor in _adapter_tensors(folder, stack):
            plain = key.removeprefix(_PEFT_PREFIX).replace(".default.weight", ".weight")
            layer, found, side = plain.rpartition(".lora_")
            if not found or side not in ("A.weight", "B.weight"):
                raise CheckpointError(f"{folder}: {key} is not a LoRA weight")
            self._updates.setdefault(f"{layer}.weight", {})[side[0]] = tensor
        for target, sides in self._updates.items():
            if target not in self.names():
                raise CheckpointError(f"{folder}: the adapter updates {target}, which the base does not have")
            rows, cols = self.shape(target)
            if {s: tuple(t.shape) for s, t in sides.items()} != {"A": (rank, cols), "B": (rows, rank)}:
                raise CheckpointError(f"{folder}: the update of {target} has not the shapes of rank {rank}")

    def names(self) -> Collection[str]:
        return dict.fromkeys([*self._base.names(), *self._trained]).keys()

    def shape(self, key: str) -> tuple[int, ...]:
        if key in self._trained:
            file, name = self._trained[key]
            return file.shape(name)
        return self._base.shape(key)

    def tensor(self, key: str) -> Tensor:
        if key in self._trained:
            file, name = self._trained[key]
            weight = file.tensor(name)
        else:
            weight = self._base.tensor(key)
        if key not in self._updates:
            return weight
        sides = self._updates[key]
        return weight.float() + self._scale * (sides["B"].float() @ sides["A"].float())


class _WeightFile(Protocol):
    def names(self) -> Collection[str]: ...

    def shape(self, key: str) -> tuple[int, ...]: ...

    def tensor(self, key: str) -> Tensor: ...


class _Safetensors:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        try:
            self._file = stack.enter_context(safe_open(path, framework="pt"))
            self._keys = list(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is corrupt or truncated: {error}") from error

    def names(self) -> Collection[str]:
        return self._keys

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(key).get_shape())

    def tensor(self, key: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(key)
        except SafetensorError as error:
            raise CheckpointError(f"{self._path}: {key} is not readable: {error}") from error
        return tensor


class _Pickled:
    def __init__(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path} is not a file of weights, and nothing else is opened: {reason}") from error
        if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
            raise CheckpointError(f"{path} does not hold named tensors")
        self._tensors: dict[str, Tensor] = content

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key].shape)

    def tensor(self, key: str) -> Tensor:
        return self._tensors[key]


def _open_file(path: Path, stack: ExitStack) -> _WeightFile:
    return _Safetensors(path, stack) if path.suffix == ".safetensors" else _Pickled(path)


def _weight_files(folder: Path) -> list[Path]:
    """Weight files of a folder; safetensors are preferred."""
    files = weight_files(folder) or weight_files(folder, "pytorch_model.bin")
    if not files:
        raise CheckpointError(f"{folder} has no weights ({WEIGHTS} or pytorch_model.bin, single or with an index)")
    return files


def _adapter_tensors(folder: Path, stack: ExitStack) -> Iterator[tuple[str, Tensor]]:
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            file = _open_file(folder / name, stack)
            for key in file.names():
                yield key, file.tensor(key)
            return
    raise CheckpointError(f"{folder} has an {LORA_CONFIG} but no adapter_model.safetensors or adapter_model.bin")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content
