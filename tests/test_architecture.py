"""The shape of the house: who may import whom, what a module may be called, what may be depended on.

Everything here is read from the source (``ast``, ``tomllib``): nothing is imported, so a broken module cannot hide.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("spex_core", "pipeline", "workflows")

MAY_IMPORT = {
    "spex_core": {"spex_core"},
    "pipeline": {"pipeline", "spex_core"},
    "workflows": {"workflows", "pipeline", "spex_core"},
}
"""workflows -> pipeline -> spex_core, never back."""

NOT_IN_CORE = {
    # rasters and grids
    *("rasterio", "rio_cogeo", "osgeo", "odc", "pyproj", "shapely", "xarray", "dask", "zarr", "geopandas"),
    # catalogs and the network
    *("pystac", "pystac_client", "stackstac", "rustac", "planetary_computer", "requests", "urllib3", "httpx"),
    # the engine
    "ray",
}
"""The model library knows tensors, text and legends, and nothing of rasters, STAC or Ray."""

EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc", "shared", "base"}
"""Names that say nothing about what a module owns."""

BANNED_DEPENDENCIES = {"torchvision", "torchaudio", "timm", "segmentation-models-pytorch", "kornia", "torchgeo"}
"""No torchvision build matches the CPU wheel of the pinned torch: neither it nor what needs it can be used."""

MAX_LINES = 400

ROOMS = (
    *("errors", "machine", "records", "settings", "sources", "planning", "imagery", "predict", "mapstore", "engine"),
    *("explain", "outputs"),
    # the workshop: made data, comparisons and whole runs, each from what stands before it
    *("simulation", "chips", "comparison", "datasets", "runs", "spie", "training", "evaluation", "adaptation"),
    *("run", "commands", "__main__"),
)
"""The rooms of ``pipeline`` in the order of import: a room knows those before it and none behind it."""


def _python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imported_modules(path: Path) -> set[str]:
    """Dotted names of every import in a file, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its own top package: the tests' modules use them among themselves.
            names.add(_relative(path).partition("/")[0] if node.level else node.module or "")
    return names


def _modules_of(path: Path) -> set[str]:
    """Dotted names of the project's modules that a file imports; ``from package import module`` is the module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if _is_module(inner) else node.module or "")
    return {name for name in found if _top(name) in PACKAGES and _is_module(name)}


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _top(name: str) -> str:
    return name.partition(".")[0]


def _pyproject() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def _pins() -> dict[str, Version]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    backwards = [
        f"{_relative(path)} imports {name}"
        for path in _python_files(package)
        for name in sorted(_imported_modules(path))
        if _top(name) in {*PACKAGES, "tests", "benchmarks"} - MAY_IMPORT[package]
    ]
    assert not backwards


def test_rooms_of_the_pipeline_know_only_those_before_them() -> None:
    backwards = []
    for path in _python_files("pipeline"):
        here = path.relative_to(ROOT / "pipeline").with_suffix("").parts[0]
        if here == "__init__":  # the package's face, see its docstring
            continue
        for name in sorted(_modules_of(path)):
            there = name.split(".")[1] if name.startswith("pipeline.") else None
            if there is not None and ROOMS.index(there) > ROOMS.index(here):
                backwards.append(f"{_relative(path)} imports {name}")
    assert not backwards


def test_no_room_or_module_is_missing_from_the_order() -> None:
    found = {path.relative_to(ROOT / "pipeline").with_suffix("").parts[0] for path in _python_files("pipeline")}
    assert found - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_import_each_other(package: str) -> None:
    """No circle of imports, of any length, those inside functions and for type checkers included."""
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): _modules_of(path)
        for path in _python_files(package)
    }
    faces = {package}  # offers the names of its modules, lazily or at the end
    circles = []
    for start in graph.keys() - faces:
        seen, front = set(), [start]
        while front:
            for name in graph.get(front.pop(), set()) - faces:
                if name == start:
                    circles.append(start)
                if name not in seen:
                    seen.add(name)
                    front.append(name)
    assert not sorted(set(circles))


def test_only_one_module_counts_processors() -> None:
    """What the machine has is not what a process may use: see pipeline/machine/processors.py."""
    counting = [
        _relative(path)
        for path in _python_files(*PACKAGES, "benchmarks")
        if re.search(r"\b(cpu_count\(|process_cpu_count|sched_getaffinity)", path.read_text(encoding="utf-8"))
        and "from pipeline.machine.processors import cpu_count" not in path.read_text(encoding="utf-8")
    ]
    assert counting == ["pipeline/machine/processors.py"]


def test_model_library_knows_no_rasters_catalogs_or_ray() -> None:
    leaks = [
        f"{_relative(path)} imports {name}"
        for path in _python_files("spex_core")
        for name in sorted(_imported_modules(path))
        if _top(name) in NOT_IN_CORE
    ]
    assert not leaks


def test_module_names_say_what_they_own() -> None:
    files = _python_files(*PACKAGES, "tests", "benchmarks")
    assert files
    assert not [_relative(path) for path in files if {path.stem, path.parent.name} & EMPTY_NAMES]


def test_a_test_lies_in_the_folder_of_the_room_that_it_tests() -> None:
    elsewhere = []
    for path in sorted((ROOT / "tests" / "pipeline").rglob("test_*.py")):
        folders = path.relative_to(ROOT / "tests" / "pipeline").parts[:-1]
        room = "pipeline." + ".".join(folders)
        used = {name for name in _modules_of(path) if f"{name}.".startswith(f"{room}.")}
        if not folders or not used:
            elsewhere.append(_relative(path))
    assert not elsewhere


def test_files_stay_short_enough_to_read_in_one_sitting() -> None:
    counted = {_relative(p): len(p.read_text(encoding="utf-8").splitlines()) for p in _python_files(*PACKAGES, "tests")}
    assert not {path: lines for path, lines in counted.items() if lines > MAX_LINES}


def test_every_third_party_import_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(r.name) for group in _pyproject().values() for r in group}
    distributions = packages_distributions()
    undeclared = []
    for path in _python_files(*PACKAGES):
        for top in sorted({_top(name) for name in _imported_modules(path)}):
            if top in sys.stdlib_module_names or top in PACKAGES:
                continue
            owners = {canonicalize_name(name) for name in distributions.get(top, [top])}
            if not owners & declared:
                undeclared.append(f"{_relative(path)} imports {top} of {', '.join(sorted(owners))}")
    assert not undeclared


def test_every_declared_dependency_is_pinned_within_its_bounds() -> None:
    pins = _pins()
    wrong = [
        f"{requirement}: pinned {pins.get(canonicalize_name(requirement.name))}"
        for requirements in _pyproject().values()
        for requirement in requirements
        if canonicalize_name(requirement.name) not in pins
        or pins[canonicalize_name(requirement.name)] not in requirement.specifier
    ]
    assert not wrong


def test_pins_hold_on_any_machine() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9A-Za-z.]*", line), (
                f"constraints.txt: {line!r} is not NAME==VERSION without path, URL or local version (+cpu)"
            )
    assert str(_pins()["torch"]) == "2.13.0"


def test_nothing_that_needs_torchvision_is_used() -> None:
    declared = {canonicalize_name(r.name) for group in _pyproject().values() for r in group}
    imported = {
        _top(name) for path in _python_files(*PACKAGES, "tests", "benchmarks") for name in _imported_modules(path)
    }
    assert not (declared | set(_pins())) & BANNED_DEPENDENCIES
    assert not imported & BANNED_DEPENDENCIES
