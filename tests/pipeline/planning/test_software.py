"""The table of software that can change a pixel: complete, with reasons, and held against the workers."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import platform
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from pipeline.engine.tasks import ReadLayers, ZoneContext, finish_block, read_block
from pipeline.errors import WorkerMismatchError
from pipeline.planning.software import SOFTWARE, WITHOUT_EFFECT, check_worker, reaching, software_versions
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings
from pipeline.settings.run_file import CompositeConfig, ModelConfig, TilingConfig
from tests.pipeline.small_plans import LEGEND, zone_of

ROOT = Path(__file__).resolve().parents[3]
NO_DISTRIBUTION = {"GDAL", "PROJ of GDAL", "PROJ", "GEOS", "platform", "spex-landcover", "triton"}
TILING = TilingConfig(tile_px=64, overlap_px=16, block_px=128)


def test_every_dependency_is_in_one_of_the_two_tables_with_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {Requirement(line).name for line in project["dependencies"]}
    assert set(SOFTWARE) - NO_DISTRIBUTION | set(WITHOUT_EFFECT) == names
    assert not set(SOFTWARE) & set(WITHOUT_EFFECT)
    assert all(entry.why for entry in SOFTWARE.values())
    assert all(WITHOUT_EFFECT.values())


def test_versions_are_those_installed() -> None:
    versions = software_versions()
    assert versions["numpy"] == np.__version__
    for name in ("scikit-image", "tokenizers", "pyproj", "shapely"):
        assert versions[name] == importlib.metadata.version(name)
    assert versions["platform"] == f"{platform.system()} {platform.machine()}"
    assert all(re.match(r"\d+\.\d+", versions[name]) for name in ("GDAL", "PROJ of GDAL", "PROJ", "GEOS"))


def test_triton_counts_on_a_gpu_only() -> None:
    assert "triton" not in software_versions("cpu")
    assert software_versions("cuda").keys() - {"triton"} == software_versions("cpu").keys()


def test_the_index_rules_do_not_know_the_libraries_of_networks() -> None:
    versions = {**software_versions("cuda"), "triton": "3", "something else": "1"}
    left = reaching(versions, network=False)
    assert versions.keys() - left.keys() == {"torch", "transformers", "tokenizers", "scikit-image", "triton"}
    assert reaching(versions, network=True) == versions


# --- workers ------------------------------------------------------------------------------------------------------


def test_a_worker_with_the_same_software_is_welcome() -> None:
    check_worker(software_versions())
    check_worker({})


@pytest.mark.parametrize("name", sorted(set(SOFTWARE) - {"triton"}))
def test_a_worker_with_another_version_is_refused_by_name(name: str) -> None:
    planned = software_versions() | {name: "0.0.1"}
    with pytest.raises(WorkerMismatchError) as caught:
        check_worker(planned)
    message = str(caught.value)
    assert f"{name} {software_versions()[name]} (the driver 0.0.1)" in message
    assert socket.gethostname() in message
    assert "constraints.txt" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # noqa: S301
    with pytest.raises(WorkerMismatchError):  # asked again, as for the next block
        check_worker(planned)


def test_all_differences_are_told_at_once_and_what_is_missing_too() -> None:
    planned = software_versions() | {"numpy": "1.26.0", "no-such-library": "3.1"}
    with pytest.raises(WorkerMismatchError, match=r"no no-such-library \(the driver 3\.1\), numpy .*1\.26\.0"):
        check_worker(planned)


def test_reader_finisher_and_actor_refuse_before_they_work(tmp_path: Path) -> None:
    zone = zone_of(64, 64, TILING)
    wrong = software_versions() | {"scipy": "0.1"}
    context = ZoneContext(zone.grid, (), CompositeConfig(), None, LEGEND, tmp_path / "absent", software=wrong)
    layers = ReadLayers(np.zeros((1, 64, 64), np.int16), np.ones((64, 64), np.uint8))
    with pytest.raises(WorkerMismatchError, match="scipy"):
        read_block(context, zone.blocks[0])
    with pytest.raises(WorkerMismatchError, match="scipy"):
        finish_block(context, zone.blocks[0], layers)
    model = ModelConfig(checkpoint="index-rules")
    with pytest.raises(WorkerMismatchError, match="scipy"):
        BlockClassifier(ClassifierSettings(model, LEGEND, TILING, (zone,), 1, 0.0, wrong)).load()
    right = ClassifierSettings(model, LEGEND, TILING, (zone,), 1, 0.0, software_versions())
    assert BlockClassifier(right).load() > 0


def test_another_process_with_another_installation_is_refused(tmp_path: Path) -> None:
    """A real second process that finds another numpy first, as a worker of another image would."""
    metadata = tmp_path / "numpy-2.4.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.4.1\n", encoding="utf-8")
    program = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from pipeline.planning.software import check_worker\n"
        "check_worker(json.loads(sys.argv[1]))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, json.dumps(software_versions()), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert f"numpy 2.4.1 (the driver {np.__version__})" in told.stderr
