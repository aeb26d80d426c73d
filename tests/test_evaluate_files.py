"""What is compared: stamps, files that are wrong, and the command line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from box_files import box, random_frames, write

from bev_runtime.cli import main
from bev_runtime.evaluation import EvaluationError, Options, evaluate


def test_outputs_are_matched_by_stamp_and_a_truth_takes_the_nearest_one_only(tmp_path):
    truth = write(tmp_path / "t.json", [[box(5, 0, num_lidar_pts=1)]] * 2)
    lines = [
        {"stamp_ns": stamp, "frame_id": "base_link", "boxes": [detection(5.0)]}
        for stamp in (8, 11, 14, 5)
    ]
    path = tmp_path / "detections.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    exact: Any = evaluate(path, truth).as_dict()
    assert exact["detection"]["frames"]["compared"] == 0
    assert any("are these of the same bag?" in note for note in exact["notes"])
    near: Any = evaluate(path, truth, Options(max_age_s=4e-9)).as_dict()["detection"]["frames"]
    assert (near["compared"], near["outputs_without_truth"]) == (1, 3)
    assert near["max_stamp_difference_s"] == pytest.approx(1e-9)
    far: Any = evaluate(path, truth, Options(max_age_s=1.0)).as_dict()["detection"]["frames"]
    assert far["compared"] == 1, "14 and the late one have a nearer partner, or none"


def detection(x: float) -> dict[str, Any]:
    numbers = dict.fromkeys(("y", "z", "yaw"), 0.0) | dict.fromkeys(("l", "w", "h"), 1.0)
    return {**numbers, "x": x, "vx": None, "vy": 0.5, "score": 0.5, "class": "car"}


def bad_files() -> list[tuple[str, str, str]]:
    good = box(5, 0, score=0.5)
    return [
        ("r.json", "{", "is not bev-boxes-1"),
        ("r.json", json.dumps({"frames": []}), "frame_id: Field required"),
        ("r.json", as_text({**good, "yaw": math.nan}), "yaw"),
        ("r.json", as_text({**good, "center": [1, 2]}), "center"),
        ("r.json", as_text({**good, "center": [1e300, 0, 0]}), "less than or equal to 1000000"),
        ("r.json", as_text({**good, "size_lwh": [0, 1, 1]}), "greater than 0"),
        ("r.json", as_text({**good, "score": None}), "has no score"),
        ("r.json", as_text({**good, "score": "0.5"}), "valid number"),
        ("r.json", as_text(good, stamp_ns=-1), "stamp_ns"),
        ("r.json", as_text(*[good] * 10_001), "at most 10000 items"),
        ("r.json", as_text(good, format="boxes-2"), "bev-boxes-1"),
        ("r.json", "[" * 100_000, "is not bev-boxes-1"),
        ("d.jsonl", "\n\n{}\n", "line 1 is no output of a replay"),
        ("d.jsonl", '{"stamp_ns": 1, "frame_id": "a", "boxes": []}\n' * 2, "more than one frame"),
    ]


def as_text(*boxes: dict[str, Any], stamp_ns: int = 10, **more: Any) -> str:
    document = {"frame_id": "base_link", "frames": [{"stamp_ns": stamp_ns, "boxes": boxes}]}
    return json.dumps({**document, **more})


@pytest.mark.parametrize(("name", "text", "message"), bad_files())
def test_a_malformed_file_is_named_with_its_mistake(tmp_path, name, text, message):
    truth = write(tmp_path / "t.json", [[box(5, 0, num_lidar_pts=1)]])
    (tmp_path / name).write_text(text)
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluate(tmp_path / name, truth)
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    truth, found = random_frames(4)
    paths = [str(write(tmp_path / "r.json", found)), "--truth"]
    paths.append(str(write(tmp_path / "t.json", truth)))
    assert (
        main(["evaluate", *paths, "--json", "--classes", "car,barrier", "--range", "car=20"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["detection"]["classes"]) == ["car", "barrier"]
    assert printed["detection"]["NDS_terms"] == ["mAP", "ATE", "ASE", "AOE", "AVE"]
    assert main(["evaluate", *paths]) == 0
    text = capsys.readouterr().out
    assert "pedestrian" in text
    assert "note: NDS is without the attribute error" in text


def test_results_without_a_velocity_are_counted_and_said(tmp_path):
    truth, found = random_frames(4)
    boxes = [box for frame in found for box in frame]
    for index, each in enumerate(boxes):
        each["velocity"] = [0.0, 0.0] if index % 4 else None
    paths = write(tmp_path / "r.json", found), write(tmp_path / "t.json", truth)
    (note,) = [note for note in evaluate(*paths).notes if "have no velocity" in note]
    share = -(-len(boxes) // 4) / len(boxes)
    assert note == f"{share:.0%} of the results have no velocity: AVE is of the others"


def test_a_truth_without_frames_is_an_error(tmp_path, capsys):
    truth, results = write(tmp_path / "t.json", []), write(tmp_path / "r.json", [])
    assert main(["evaluate", str(results), "--truth", str(truth)]) == 1
    assert "the truth holds no frame" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "car,,bus"], "expected names"),
        (["--range", "-3"], "expected metres"),
        (["--range", "car=x"], "'x' is not a number"),
        (["--max-age", "nan"], "expected 0 to 10 seconds"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path, capsys, options, message):
    truth = str(write(tmp_path / "t.json", []))
    assert main(["evaluate", truth, "--truth", truth, *options]) == 2
    assert message in capsys.readouterr().err


def test_files_that_are_not_there_are_failures(tmp_path, capsys):
    truth = str(write(tmp_path / "t.json", []))
    assert main(["evaluate", str(tmp_path / "none"), "--truth", truth]) == 1
    assert "none does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", str(tmp_path / "empty"), "--truth", truth]) == 1
    assert "nothing in common to compare" in capsys.readouterr().err
