"""A SPEX checkpoint on one device, as the engine uses it: mixed precision, compiled vision, scores that stay there.

Weights are float32. With ``bfloat16`` the matrix products, convolutions and attention run in it under autocast, while
the input layer, norms and softmax stay in float32 (docs/decisions/0012). torch is imported on first use: the driver
plans without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.predict.model_cache import keep_model, kept_file, kept_model
from pipeline.predict.stitch import LEAST_SCORE, VOTE_SCALE
from pipeline.settings.model import Kind, compiles, precision_for, tiles_per_forward
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import checkpoint_fingerprint, resolve_checkpoint, unreadable
from spex_core.errors import CheckpointError, SpexError
from spex_core.legend import Legend

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.settings.run_file import ModelConfig
    from spex_core.word_masks import WordMasks

BACKEND = "inductor"
"""Of torch.compile."""

FloatArray = npt.NDArray[np.float32]


class DeviceArrays:
    """Sums of scores on the model's device.

    See :class:`pipeline.predict.stitch.HostArrays`, whose bytes it gives on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        """float32 zeros."""
        import torch

        return torch.zeros(shape, dtype=torch.float32, device=self._device)

    def put(self, values: FloatArray | Tensor) -> Tensor:
        """The same on the device, float32."""
        import torch

        if isinstance(values, np.ndarray):
            values = sendable(torch.from_numpy(np.array(values, np.float32)), self._device)  # cached ones are read-only
        return values.to(self._device, torch.float32, non_blocking=True)

    def fetch(self, values: Tensor) -> FloatArray:
        """A contiguous copy on the host: the one transfer of a block's scores."""
        return np.array(values.cpu().numpy(), np.float32, order="C")

    def log_votes(self, scores: FloatArray | Tensor, own: npt.NDArray[np.bool_]) -> Tensor:
        """See :meth:`pipeline.predict.stitch.Arrays.log_votes`."""
        import torch

        values = (self.put(scores).clamp_min(LEAST_SCORE).log_() * VOTE_SCALE).round_()
        return values.mul_(self.put(own.astype(np.float32))).to(torch.int32)

    def pooled(self, votes: Tensor, counts: npt.NDArray[np.integer]) -> Tensor:
        """See :meth:`pipeline.predict.stitch.Arrays.pooled`."""
        shares = (votes / (VOTE_SCALE * self.put(np.maximum(counts, 1).astype(np.float32)))).exp_()
        return shares / shares.sum(dim=0, keepdim=True)


def sendable(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host so that their way to the device is not waited for: pinned, if it is a GPU.

    From pageable memory every transfer first waits for all that the GPU has been given, and nothing is prepared
    meanwhile. torch keeps a pinned buffer until the transfer is through, and uses it again.
    """
    return values.pin_memory() if device.type == "cuda" else values


class SpexModel:
    """A SPEX checkpoint on one device.

    Args:
        config: Checkpoint, precision and compiling.
        legend: Classes of the scores.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        tile_px: Side of the tiles; without it nothing is compiled.
        tiles: Tiles of the whole plan; decides with ``compile: auto``.

    Raises:
        CheckpointError: The checkpoint cannot be loaded, or ``compile: on`` is not possible here.
    """

    def __init__(
        self, config: ModelConfig, legend: Legend, device: str, *, tile_px: int | None = None, tiles: int = 0
    ) -> None:
        import torch

        kind: Kind = "cuda" if device.startswith("cuda") else "cpu"
        if kind == "cuda":
            # cuBLAS sums in a fixed order only with a workspace of its own; read when CUDA starts.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._torch = torch
        self._config, self._legend = config, legend
        self._device = torch.device(device)
        self._half = precision_for(config, kind) == "bfloat16"
        if not self._half:
            torch.backends.cudnn.allow_tf32 = False  # float32 means float32
        folder = resolve_checkpoint(config.checkpoint)
        self._fingerprint = checkpoint_fingerprint(Path(folder))
        self.notes: list[str] = []
        """What people should know about how this model runs."""
        self.arrays = DeviceArrays(self._device)
        self._class_words: Tensor | None = None
        """Prompts of the legend's bare class words, which no pixel changes."""
        self._word_masks: WordMasks | None = None
        """The model without its language model, where that is not needed any more."""
        compiled = tile_px is not None and compiles(config, kind, tiles)
        plain = kind == "cpu" and not self._half and not compiled
        kept = kept_file(self._fingerprint, legend, torch.get_num_threads()) if plain else None
        if kept is not None:
            self._word_masks = kept_model(kept)
        self._model: Any = None
        if self._word_masks is None:
            self._load(folder, kept)
        if compiled:
            assert tile_px is not None
            self._compile_vision(tile_px)

    def _load(self, folder: Path, kept: Path | None) -> None:
        """Loads the whole model, and keeps what the next one needs of it."""
        from spex_core.published_model import load_sentinel2_model

        loaded: Any = load_sentinel2_model(folder)
        self._model = loaded.to(self._device).eval()
        if self._half:
            self._keep_input_exact()
        if self._model.config.masks_by_class_words:
            try:
                self._read_class_words()
            except SpexError:
                raise
            except Exception as error:  # files that load and do not fit each other: too few words, no such size
                if type(error).__name__ == "OutOfMemoryError":
                    raise
                raise unreadable(folder, error) from error
            if kept is not None and self._class_words is not None:
                keep_model(self._model, self._class_words, kept)

    def _read_class_words(self) -> None:
        torch = self._torch
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            self._class_words = self._model.class_word_prompts(self._legend)

    def fingerprint(self) -> str:
        """Identity of the weights."""
        return self._fingerprint

    def scores(self, pixels: FloatArray) -> FloatArray:
        """See :meth:`pipeline.predict.classifier.Classifier.scores`."""
        return self.arrays.fetch(self.device_scores(pixels))

    def device_scores(self, pixels: FloatArray) -> Tensor:
        """The same on the model's device: float32 ``[B, K, H, W]``; nothing is waited for."""
        torch = self._torch
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            # Given on the host: the questions are computed there, and the model moves the pixels itself.
            read = ~np.isnan(pixels[0, :, 0, 0])
            bands = None if read.all() else [name for name, there in zip(SENTINEL2_BANDS, read, strict=True) if there]
            batch = torch.from_numpy(np.ascontiguousarray(pixels if bands is None else pixels[:, read]))
            batch = sendable(batch, self._device)
            if self._word_masks is not None:
                return self._word_masks.scores(batch, bands)
            # model.explain asks about sub-regions of the finished map; no pixel depends on it.
            prediction = self._model.predict(batch, self._legend, bands=bands, class_words=self._class_words)
            scores: Tensor = prediction.scores
            return scores.float()

    def _keep_input_exact(self) -> None:
        """The input layer in float32: reflectances differ in their third digit, and bfloat16 has no more than two."""
        layer = self._model.spectral_input
        layer.forward = self._torch.autocast(self._device.type, enabled=False)(layer.forward)

    # -- compiling --------------------------------------------------------------------------------------------------

    def _compile_vision(self, tile_px: int) -> None:
        """Compiles the vision pass for full micro-batches; all others run as they are.

        One shape, decided by the plan, so that a tile's bytes do not depend on which batches an actor saw before.
        """
        import torch._inductor.config as inductor

        torch = self._torch
        inductor.deterministic = True  # no kernel is chosen by a stopwatch
        plain: Callable[..., Any] = self._model.encode_image
        compiled: Callable[..., Any] = torch.compile(plain, backend=BACKEND, dynamic=False)
        batch = tiles_per_forward(self._config, "cuda" if self._device.type == "cuda" else "cpu")
        full = (batch, len(SENTINEL2_BANDS), tile_px, tile_px)

        def encode_image(pixel_values: Tensor, *rest: Any) -> Any:
            return (compiled if tuple(pixel_values.shape) == full else plain)(pixel_values, *rest)

        try:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                # Made in here: a graph is compiled for inference tensors or for others.
                compiled(torch.full(full, 0.1, device=self._device), None, None)
        except Exception as error:
            # A compiler that is missing has many faces (C++, Triton, headers); a full GPU is no such case.
            if type(error).__name__ == "OutOfMemoryError":
                raise
            reason = compile_failure(error)
            if self._config.compile == "on":
                raise CheckpointError(f"model.compile is on, but {reason}; set it to auto or off") from error
            self.notes.append(f"the model runs without torch.compile: {reason}")
            return
        self._model.encode_image = encode_image


def compile_failure(error: BaseException) -> str:
    """The one line of a compiler's complaint that a person can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"the vision part cannot be compiled here ({type(error).__name__}: {line[:200]}); is a C++ compiler there?"
