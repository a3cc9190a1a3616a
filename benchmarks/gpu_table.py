"""What a GPU benchmark measures at which size, and how its sections tell their figures. No torch: a section's process
tells line by line, so that what it had measured before it failed or ran out of time is not lost.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

LIMIT_S: dict[str, float] = {
    "tiny model": 150.0,
    "official layout": 150.0,
    "DCNv3 kernel": 60.0,
    "CPU parity": 60.0,
    "end to end": 240.0,
}
"""The sections in order, and the most seconds of each: a compiler that hangs must not cost the others their time. Last
is the one that needs most beside a GPU."""
BARS: dict[str, tuple[str, float]] = {
    "official_speedup": ("official layout", 100.0),
    "prefill_share_of_matmul_ceiling": ("official layout", 0.4),
    "dcnv3_speedup": ("DCNv3 kernel", 3.0),
}
"""Figure → its section and the least that it should be on a GPU."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    tile_px: int = 512
    micro_batches: tuple[int, ...] = (1, 4, 8, 32)
    """Tiles in one forward pass of the tiny model."""
    compiled_batches: tuple[int, ...] = (4, 32)
    """The same of the compiled model, which takes up to a minute to compile for each."""
    seconds: float = 1.5
    """Least time of a measured rate."""
    repeats: int = 5
    official_tiles: tuple[int, ...] = (4, 8)
    official_changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the official layout that differ."""
    published_tokens: int = 256
    kernel_tiles: int = 4
    kernel_px: int = 512
    parity_chips: int = 12
    parity_px: int = 256
    scene_px: int = 2048


SMALL = Scale(
    tile_px=64,
    micro_batches=(1, 2),
    compiled_batches=(),
    seconds=0.0,
    repeats=1,
    official_tiles=(2,),
    official_changes={
        "channels": 16,
        "depths": (1, 1, 2, 1),
        "aggregator_channels": 64,
        "condensation_widths": (64, 32),
        "decoder_width": 32,
        "decoder_heads": 4,
        "decoder_mlp": 64,
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 1024,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    },
    published_tokens=4,
    kernel_tiles=1,
    kernel_px=32,
    parity_chips=2,
    parity_px=64,
    scene_px=256,
)
"""For a CPU: every path, in seconds; the figures say nothing of a GPU."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    section: str
    what: str
    value: float | None
    """None: not given."""
    unit: str = ""
    note: str = ""


class Report:
    """What one section tells while it goes.

    Args:
        section: Its name.
        say: Takes each line of JSON as soon as it is known; default: standard output.
    """

    def __init__(self, section: str, say: Callable[[str], None] | None = None) -> None:
        self._section = section
        self._say = say or (lambda text: print(text, file=sys.stdout, flush=True))

    def row(self, what: str, value: float | None, unit: str = "", note: str = "") -> None:
        """A row of the table."""
        self._say(json.dumps({"row": asdict(Line(self._section, what, value, unit, note))}))

    def figure(self, name: str, value: float | str) -> None:
        """An entry of the last line."""
        self._say(json.dumps({"figure": [name, value]}))

    @contextmanager
    def guarded(self, what: str, after: Callable[[], None] = lambda: None) -> Iterator[None]:
        """A part that may fail alone, a batch that does not fit for instance; its row then says why."""
        failure = ""
        try:
            yield
        except Exception as error:
            failure = reason_of(error)
        if failure:  # outside of the handler, which would keep the failed pass's tensors alive
            after()
            self.row(what, None, "", failure)


def reason_of(error: BaseException) -> str:
    """One line of an error for a table."""
    if isinstance(error, ModuleNotFoundError):
        return f"not measured: {error.name} is not installed here"
    words = " ".join(str(error).split()) or "without a word"
    return f"failed: {type(error).__name__}: {words}"[:200]


def read_told(text: str) -> tuple[list[Line], dict[str, float | str]]:
    """Rows and figures that a section told; whatever else its process printed is not ours."""
    lines: list[Line] = []
    figures: dict[str, float | str] = {}
    for raw in text.splitlines():
        try:
            told = json.loads(raw)
        except ValueError:
            continue  # a library's own words, or a line that was cut
        if isinstance(told, dict) and "row" in told:
            lines.append(Line(**told["row"]))
        elif isinstance(told, dict) and "figure" in told:
            name, value = told["figure"]
            figures[name] = value
    return lines, figures


HEAD = f"{'section':16} {'what':46} {'value':>10} {'unit':9} note"


def table_row(line: Line) -> str:
    """A row as it is printed."""
    value = "-" if line.value is None else f"{line.value:.4g}" if abs(line.value) < 1e4 else f"{line.value:.0f}"
    return f"{line.section:16} {line.what:46} {value:>10} {line.unit:9} {line.note}".rstrip()


def bar_rows(figures: Mapping[str, float | str]) -> list[Line]:
    """Each bar that was measured on a GPU, met or missed."""
    if figures.get("small"):
        return []
    rows = []
    for name, (section, least) in BARS.items():
        if isinstance(value := figures.get(name), float | int):
            rows.append(Line(section, name, value, "", f"bar {least:g}: {'met' if value >= least else 'MISSED'}"))
    return rows
