"""TensorRT-RTX builds of every published family's exported package."""

from pathlib import Path

import pytest
from fixture_weights import Fixture

torch = pytest.importorskip("torch", reason="needs torch: pip install 'bev-runtime[train]'")
pytest.importorskip(
    "tensorrt_rtx_bindings",
    reason="needs TensorRT-RTX: pip install 'bev-runtime[tensorrt_rtx]'",
)

from bev_export.__main__ import main  # noqa: E402
from bev_runtime.backends.engine_build import build_model  # noqa: E402
from bev_runtime.backends.engine_cache import EngineCache  # noqa: E402
from bev_runtime.backends.engine_target import make_target  # noqa: E402
from bev_runtime.model import load_model  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["cvt", "fiery", "lss", "power_bev", "simple_bev", "simple_bev_radar"]
)
def test_every_stage_of_an_exported_family_compiles(family: str, tmp_path: Path) -> None:
    weights = {key: torch.from_numpy(value) for key, value in Fixture(family).weights().items()}
    torch.save(weights, tmp_path / "weights.pt")
    words = ["--checkpoint", str(tmp_path / "weights.pt"), "--out", str(tmp_path / "package")]
    assert main([family, *words]) == 0
    model = load_model(tmp_path / "package")

    target, cache = make_target("tensorrt_rtx", sm=(89,)), EngineCache(tmp_path / "engines")
    built = list(build_model(model, target, cache))

    assert {item.part.name.split(".")[0] for item in built} == {
        stage.name for stage in model.manifest.stages
    }
    assert all(item.engine.data for item in built)
    assert all(item.reason is None for item in build_model(model, target, cache))
