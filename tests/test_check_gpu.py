from __future__ import annotations

import importlib
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITH_A_GPU = {"nvidia-smi": "echo a GPU", "nvcc": "echo release 13.0", "cmake": "echo built"}
SCRIPT = ROOT / "scripts" / "check_gpu.sh"


@pytest.fixture
def machine(tmp_path: Path):
    """Runs the script where only the given commands answer; gives its result and output folder."""

    def run(**commands: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        tools = tmp_path / "bin"
        tools.mkdir()
        for name, body in commands.items():
            path = tools / name
            path.write_text(f"#!/usr/bin/env bash\n{body}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        out = tmp_path / "out"
        environment = {
            **os.environ,
            "PATH": f"{tools}:/usr/bin:/bin",
            "OUT": str(out),
            "PYTHON": str(tools / "python"),
        }
        result = subprocess.run(
            ["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
        )
        return result, out

    return run


def test_without_a_gpu_nothing_is_done_and_said_so(machine) -> None:
    result, out = machine(**{"nvidia-smi": "exit 9"})
    assert result.returncode == 1
    assert "no CUDA device" in result.stderr
    assert not out.exists()


def test_a_step_that_fails_is_named_and_those_after_it_still_run(machine) -> None:
    broken = 'case "$*" in *pytest" "tests/gpu) echo broken; exit 1; esac; echo "{}"'
    result, out = machine(**WITH_A_GPU, python=broken)
    assert result.returncode == 1
    lines = (out / "summary.txt").read_text().splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert len(failed) == 1
    assert re.search(rf"tests, \d+ s: see {re.escape(str(out))}/tests\.log", failed[0])
    assert (out / "tests.log").read_text() == "broken\n"
    assert (out / "replay_gpu.json").read_text() == "{}\n"
    assert sum(line.startswith("ok") for line in lines) == 9


def test_all_is_well_where_every_step_is(machine) -> None:
    result, out = machine(**WITH_A_GPU, python="echo '{}'")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in (out / "summary.txt").read_text()


def test_the_benchmarks_take_the_words_that_they_are_given(monkeypatch) -> None:
    lines = SCRIPT.read_text().replace('"${quick[@]}"', "--quick").splitlines()
    calls = [shlex.split(line.split('"$python" ')[1]) for line in lines if "tests/bench/" in line]
    assert len(calls) == 3
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    for file, *words in calls:
        importlib.import_module(Path(file).stem).make_parser().parse_args(words)
