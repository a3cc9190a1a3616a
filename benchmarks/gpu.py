"""Everything that only a GPU can tell, in one short sitting.

    python -m benchmarks.gpu [--minutes 8] [--scene FOLDER] [--sections NAME,...]

Measures on the CUDA device, each section in a process of its own: the built-in model as an actor runs it (tiles/s by
micro-batch, precision and compiling); the full published layout with random weights against the published procedure
and against the device's own matrix products; the DCNv3 kernel against the portable path; classes on the GPU against
classes on the CPU; and a map from COGs, end to end. A section that fails, does not fit, or is killed by its time limit
says so in the table, keeps the rows that it had, and costs the others nothing; sections for which the time is used up
are named. Without a CUDA device, or with --small, everything runs in small: for tests, the figures mean nothing.

The machine needs torch with CUDA and Triton (2.11 and newer), transformers >= 5.23 with tokenizers and safetensors
(5.17 cannot read the configuration: bring that wheel, 13 MB, and install it with --no-deps), numpy, scipy,
scikit-image, PyYAML and psutil, and no network: weights are built in or random. Only "end to end" needs the whole
product, installed with its dependencies (pip install -c constraints.txt .); where Ray, rasterio or another is missing,
that section says which and is left out. It simulates its scene, which takes a minute or so of one core, unless --scene
names a folder that `python -m benchmarks.pipeline --size 2048` kept (out/benchmark/archive-2048-2, say).

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu_table import HEAD, LIMIT_S, Line, Report, bar_rows, read_told, reason_of, table_row

LEAST_S = 5.0
"""A section is not begun with less time left."""
GRACE_S = 10.0
"""From the request to end to the end."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of everything; what is left then is skipped")
    parser.add_argument("--small", action="store_true", help="tiny sizes; always so without a CUDA device")
    parser.add_argument("--sections", default=",".join(LIMIT_S), help="some of: %(default)s")
    parser.add_argument("--checkpoint", default="", help="built-in name or folder instead of the default")
    parser.add_argument("--scene", type=Path, help="a simulated archive that is there already")
    parser.add_argument("--folder", type=Path, default=Path("out/benchmark"), help="for the archive and the map")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # one section's own process
    options = parser.parse_args(arguments)
    if options.section:
        measure_here(options)
        return

    names = options.sections.split(",")
    if unknown := [name for name in names if name not in LIMIT_S]:
        parser.error(f"no section is called {', '.join(unknown)}")
    given = ["--folder", str(options.folder), *(["--small"] if options.small else [])]
    given += ["--checkpoint", options.checkpoint] if options.checkpoint else []
    given += ["--scene", str(options.scene)] if options.scene else []

    def in_a_process(name: str, seconds: float) -> tuple[str, str]:
        return watched([sys.executable, "-m", "benchmarks.gpu", "--section", name, *given], seconds)

    print(json.dumps(measured(names, options.minutes * 60, in_a_process)))


def measured(
    names: Sequence[str], seconds: float, run: Callable[[str, float], tuple[str, str]]
) -> dict[str, float | str | dict[str, float | str]]:
    """Runs sections one after the other and prints the table as it grows.

    Args:
        names: The sections.
        seconds: For all of them.
        run: Given a section and its most seconds, what it told and why it ended early ("" if it did not).

    Returns:
        The figures, with ``seconds``, ``peak_device_mb`` and ``not_measured`` by section.
    """
    begun = time.monotonic()
    figures: dict[str, float | str] = {}
    peaks: dict[str, float | str] = {}
    took: dict[str, float | str] = {}
    lost: dict[str, float | str] = {}
    print(HEAD, flush=True)
    for name in names:
        left = seconds - (time.monotonic() - begun)
        if left < LEAST_S:
            lost[name] = f"skipped: the {seconds / 60:g} minutes are used up"
            print(table_row(Line(name, "", None, "", str(lost[name]))), flush=True)
            continue
        section_begun = time.monotonic()
        try:
            text, ended = run(name, min(left, LIMIT_S.get(name, left)))
        except Exception as error:
            text, ended = "", reason_of(error)
        lines, own = read_told(text)
        took[name] = round(time.monotonic() - section_begun, 1)
        peaks[name] = own.pop("peak_device_mb", "-")
        ended = str(own.pop("ended", "")) or ended
        figures |= own
        if ended:
            lost[name] = ended
            lines.append(Line(name, "", None, "", ended))
        peak = peaks[name]
        lines.append(
            Line(name, "peak device memory", peak if isinstance(peak, float) else None, "MB", f"{took[name]} s in all")
        )
        for line in lines:
            print(table_row(line), flush=True)
    for line in bar_rows(figures):
        print(table_row(line))
    return {**figures, "seconds": took, "peak_device_mb": peaks, "not_measured": lost}


def watched(command: Sequence[str], seconds: float) -> tuple[str, str]:
    """Runs a section's process for so long at most.

    Returns:
        Its standard output as far as it came, and why it ended early ("" if it did not).
    """
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as complaints:  # not pipes: nobody reads
        process = subprocess.Popen(command, stdout=told, stderr=complaints, start_new_session=True)
        ended = ""
        try:
            if process.wait(seconds):
                ended = f"its process ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            _end(process)
        told.seek(0)
        complaints.seek(0)
        if ended.startswith("its process"):
            last = [line for line in complaints.read().splitlines() if line.strip()][-1:]
            ended = ": ".join([ended, *last])[:160]
        return told.read(), ended


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a section with all that it has started; one that maps stops its Ray when asked."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure_here(options: argparse.Namespace) -> None:
    """One section in this process, which tells rows and figures on standard output."""
    report = Report(options.section)
    try:
        import torch

        if not torch.cuda.is_available():
            os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels then run on a CPU
        from benchmarks.gpu_sections import measure

        measure(options, report)
    except Exception as error:
        report.figure("ended", reason_of(error))


if __name__ == "__main__":
    main()
