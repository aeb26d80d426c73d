"""The command line as a person or a script meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ros_messages import drive, write_bag

from bev_runtime.cli import main


def test_json_is_one_object_on_stdout_and_everything_else_goes_to_stderr(
    drive_bag, tiny_model, tmp_path, capsys
):
    code = main(
        [
            "replay",
            str(drive_bag),
            "--model",
            str(tiny_model),
            "--json",
            "--out",
            str(tmp_path / "o"),
        ]
    )
    out, err = capsys.readouterr()
    assert code == 0
    assert json.loads(out)["published"] == 20
    assert "rig inferred: cameras back, front, left" in err
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"summary.json", "detections.jsonl", "maps", "outputs.mcap", "frames"}
    assert len(list((tmp_path / "o/frames").iterdir())) == 4
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert set(summary["latency_ms"]["total"]) == {"p50", "p99", "max"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["replay", "nowhere"], 1, "does not exist"),
        (["replay", "{bag}", "--model", "no_such_model"], 1, "twinlite_ground_map"),
        (["replay", "{bag}", "--fault", "drop:roof"], 2, "no sensor matches 'roof'"),
        (["replay", "{bag}", "--rate", "fast"], 2, "--rate fast"),
        (["replay", "{bag}", "--rig", "none.yaml"], 2, "cannot be read"),
        (["inspect", "no_such_thing"], 1, "no_such_thing"),
        (["check-calib", "{bag}", "--frames", "0"], 2, "--frames 0"),
        (["demo", "--seconds", "1000"], 2, "--seconds 1000"),
        (["demo", "--seed", "-1"], 2, "--seed -1"),
        (["replay", "{bag}", "--seed", "-1"], 2, "--seed -1"),
        (["replay", "{bag}", "--threads", "100000"], 2, "--threads 100000"),
        (["replay", "{bag}", "--out", "/proc/x"], 2, "cannot be written to"),
        (["check-calib", "{bag}", "--out", "/etc/passwd"], 2, "cannot be written to"),
    ],
)
def test_each_mistake_has_its_exit_code_and_one_clear_message(
    arguments, code, message, drive_bag, capsys
):
    assert main([a.format(bag=drive_bag) for a in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err


def test_usage_errors_exit_with_two():
    for arguments in ([], ["fly"], ["replay"], ["replay", "x", "--backend", "abacus"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_python_dash_m_is_the_same_command():
    command = [sys.executable, "-m", "bev_runtime", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("demo", "replay", "inspect", "check-calib", "schema"):
        assert name in done.stdout


@pytest.mark.parametrize("kind", ["manifest", "rig"])
def test_schemas_are_json_schemas_that_forbid_unknown_keys(kind, capsys):
    assert main(["schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert schema["type"] == "object"


def test_inspect_shows_rates_gaps_and_missing_calibration(tmp_path, capsys):
    items = [i for i in drive(frames=10) if i[1] != "/front/camera_info"]
    gap = [i for i in items if not (i[1].startswith("/left/") and 300 < i[0] // 10**6 % 1000 < 700)]
    bag = write_bag(tmp_path / "bag", gap)
    assert main(["inspect", str(bag), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row["topic"]: row for row in report["topics"]}
    left = rows["/left/image/compressed"]
    assert (left["rate_hz"], left["gaps"]) == (10.0, 1)
    assert left["max_gap_s"] == pytest.approx(0.5)
    assert rows["/back/image/compressed"]["gaps"] == 0
    assert rows["/back/image/compressed"]["frame_id"] == "back"
    assert list(report["calibration_problems"]) == ["front"]
    assert main(["inspect", str(bag)]) == 0
    assert "missing calibration" in capsys.readouterr().out


def test_inspect_shows_a_shipped_model(capsys):
    assert main(["inspect", "twinlite_ground_map"]) == 0
    out = capsys.readouterr().out
    assert "hash verified" in out
    assert "drivable_area, lane" in out


def test_a_paced_replay_takes_the_time_of_the_bag(tiny_model, tmp_path, capsys):
    import time

    bag = write_bag(tmp_path / "bag", drive(frames=10))
    start = time.monotonic()
    assert main(["replay", str(bag), "--model", str(tiny_model), "--rate", "2", "--json"]) == 0
    assert time.monotonic() - start > 0.4
    summary = json.loads(capsys.readouterr().out)
    assert summary["published"] >= 9
    for account in summary["sensors"].values():
        total = account["used"] + account["superseded"] + sum(account["rejected"].values())
        assert account["received"] == total


@pytest.mark.slow
def test_the_demo_loses_its_lidar_and_two_cameras_and_scores_each_part(tmp_path, capsys):
    pytest.importorskip("embreex", reason="the extra `sim` is not installed")
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seconds", "4", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["modes"]["FULL"] >= 5
    assert summary["modes"]["CAMERA_ONLY"] >= 8
    full, no_lidar, least = summary["phases"].values()
    assert full["car_ap_2m"] > 0.7
    assert full["car_ap_2m"] > least["car_ap_2m"]
    # The parts are drives through different places, so only the loss of a whole sector is sure.
    assert min(full["observed"], no_lidar["observed"]) > least["observed"]
    assert full["map_miou"] > 0.25
    assert (out / "strip.png").stat().st_size > 100_000
    assert (out / "outputs.mcap").exists()


def test_every_command_of_the_readme_exists():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    commands = {line.split()[1] for line in text.splitlines() if line.startswith("bev-runtime ")}
    assert commands == {"inspect", "check-calib", "replay", "evaluate"}
    for command in commands:
        with pytest.raises(SystemExit) as exit_code:
            main([command, "--help"])
        assert exit_code.value.code == 0
