from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cpu_backends import CPU_BACKENDS
from fusion_model import write_fusion_model
from ros_messages import drive, write_bag
from tiny_model import write_tiny_model

from bev_runtime.bags import Bag
from bev_runtime.cli.replay import replay_bag
from bev_runtime.model import load_model
from bev_runtime.rig import Rig
from bev_runtime.rig_inference import infer_rig


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model package that runs in microseconds."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def drive_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras and a LiDAR at 10 Hz for two seconds, driving at 5 m/s."""
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", drive())


@pytest.fixture(scope="session")
def fusion_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model package of cameras and LiDAR that runs in a few milliseconds."""
    return write_fusion_model(tmp_path_factory.mktemp("models") / "fusion")


@pytest.fixture(params=CPU_BACKENDS)
def cpu_backend(request: pytest.FixtureRequest) -> str:
    """The name of each CPU backend; those that are not installed are skipped."""
    return str(request.param)


Replay = Callable[..., dict[str, Any]]


@pytest.fixture
def run_replay(tiny_model: Path) -> Replay:
    """Replays a bag as the command line does; gives the content of summary.json."""

    def run(
        bag_path: Path, rig: Rig | None = None, model: Path | str = tiny_model, **options: Any
    ) -> dict[str, Any]:
        with Bag(bag_path) as bag:
            chosen = rig or infer_rig(bag).rig
            return replay_bag(bag, load_model(model), chosen, pictures=0, **options)

    return run


FusionReplay = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture
def fusion_replay(run_replay: Replay, fusion_model: Path, tmp_path: Path) -> FusionReplay:
    """Replays with the fusion model; gives the summary and the folder of the outputs."""
    count = iter(range(100))

    def run(bag: Path, *faults: str, **options: Any) -> tuple[dict[str, Any], Path]:
        out = tmp_path / f"out{next(count)}"
        options = {"model": fusion_model, **options}
        return run_replay(bag, out=out, fault_specs=list(faults), **options), out

    return run
