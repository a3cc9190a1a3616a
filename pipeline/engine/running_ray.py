"""Which running Ray ``--address auto`` means: never the private one of another run on this machine.

Ray itself takes any that it finds in the list of processes. The Ray that a run starts for itself (see
:mod:`pipeline.engine.local_ray`) is found there too, asks for a token that nobody else has, and ends with its run.
"""

from __future__ import annotations

import contextlib
import os
import re
from importlib import import_module
from typing import Any

import psutil

from pipeline.engine.local_ray import RAY_FOLDER, TEMP_PREFIX
from pipeline.errors import ClusterError

AUTO = "auto"
ADDRESS_VARIABLE = "RAY_ADDRESS"
_START = "start one with 'ray start --head', give its address (host:6379, ray://host:10001), or leave --address out"
_PRIVATE = re.compile(rf"/{re.escape(TEMP_PREFIX)}[^/\s]+/{RAY_FOLDER}/")
_GCS = re.compile(r"--gcs-address=([^\s\"']+)")


def address_to_join(address: str) -> str:
    """An address as ``ray.init`` takes it; ``auto`` is looked up here.

    In this order: ``RAY_ADDRESS``, what ``ray start`` wrote down last, the one cluster among the processes.

    Raises:
        ClusterError: ``auto``, and there is no cluster to join, or more than one.
    """
    if address != AUTO:
        return address
    named = os.environ.get(ADDRESS_VARIABLE, "").strip()
    if named and named != AUTO:
        if named == "local":
            raise ClusterError(f"--address auto: {ADDRESS_VARIABLE} is 'local', which is no cluster; {_START}")
        return named
    found, private = _running()
    started = _written_down()
    if started is not None and started not in private:
        return started
    if len(found) == 1:
        return found.pop()
    if found:
        raise ClusterError(
            f"--address auto: several Ray clusters run on this machine ({', '.join(sorted(found))}): give the address "
            "of the one that you mean"
        )
    others = ""
    if private:
        some = f"{len(private)} private one{'s' if len(private) > 1 else ''}"
        others = f" ({some} of other spex runs, which nobody else may join)"
    raise ClusterError(f"--address auto: no Ray cluster runs on this machine{others}: {_START}")


def _running() -> tuple[set[str], set[str]]:
    """Addresses in the command lines of this machine's Ray processes: of clusters, and of the private Ray of runs."""
    found: set[str] = set()
    private: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            command = process.cmdline()
            if command and os.path.basename(command[0].split(" ")[0]) == "raylet":
                words = " ".join(command)
                (private if _PRIVATE.search(words) else found).update(_GCS.findall(words)[:1])
    return found - private, private


def _written_down() -> str | None:
    """What the last ``ray start`` of this machine wrote into Ray's folder."""
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        services: Any = import_module("ray._private.services")
        address = services.find_bootstrap_address(None)
        return str(address) if address else None
    return None
