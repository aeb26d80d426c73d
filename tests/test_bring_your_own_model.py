"""The page that takes a network from torch to a replay does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ros_messages import drive, write_bag

pytest.importorskip("torch", reason="export needs torch")

PAGE = Path(__file__).parent.parent / "docs" / "bring_your_own_model.md"


def test_the_code_of_the_page_makes_a_package_that_is_served(
    run_replay, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "wrote my_model" in capsys.readouterr().out
    bag = write_bag(tmp_path / "bag", drive(frames=3))
    summary = run_replay(bag, model=tmp_path / "my_model", out=tmp_path / "out")
    assert summary["modes"] == {"FULL": summary["frames"]}
    with np.load(sorted((tmp_path / "out" / "maps").glob("*.npz"))[0]) as file:
        scores, observed = file["scores"], file["observed"]
    assert scores.shape == (2, 100, 100)
    assert 0.1 < observed.mean() < 1
    assert scores[:, observed].std() > 1e-3
