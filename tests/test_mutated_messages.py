"""Random damage to the bytes of any message is refused with a reason; nothing else is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ros_messages import drive, write_bag

from bev_runtime.bags import Bag
from bev_runtime.intake import Intake
from bev_runtime.recording import RecordingPipeline
from bev_runtime.rig import CameraConfig, Rig
from bev_runtime.rig_inference import infer_rig
from bev_runtime.runtime import Runtime


def damage(raw: bytes, rng: np.random.Generator) -> bytes:
    """Flips bytes (mostly near the front, where lengths and numbers are), or cuts."""
    changed = bytearray(raw)
    for _ in range(int(rng.integers(1, 6))):
        reach = min(len(changed), 200) if rng.random() < 0.8 else len(changed)
        changed[int(rng.integers(reach))] = int(
            rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        )
    return bytes(changed[: int(rng.integers(len(changed)))] if rng.random() < 0.2 else changed)


@pytest.mark.parametrize("raw_images", [False, True], ids=["jpeg", "raw"])
@pytest.mark.parametrize("seed", range(6))
def test_damaged_messages_of_every_topic_are_counted_and_never_raise(tmp_path, seed, raw_images):
    bag_path = write_bag(tmp_path / "bag", drive(frames=10, raw=raw_images))
    rng = np.random.default_rng(seed)
    with Bag(bag_path) as bag:
        rig = infer_rig(bag).rig
        runtime = Runtime(rig, RecordingPipeline(rig))
        intake = Intake(runtime, bag.typestore)
        messages = list(bag.messages(intake.topics))
        outputs = 0
        for message in messages:
            hurt = rng.random() < 0.4
            raw = damage(bytes(message.raw), rng) if hurt else message.raw
            intake.receive(message.topic, message.msgtype, raw, message.time_ns)
            outputs += runtime.poll(message.time_ns) is not None
        runtime.poll(messages[-1].time_ns, flush=True)
        runtime.finish()
    assert outputs > 0
    for name, account in runtime.buffer.accounts.items():
        total = account.used + account.superseded + sum(account.rejected.values())
        assert account.received == total == 10, name
    assert sum(sum(a.rejected.values()) for a in runtime.buffer.accounts.values()) > 0


def test_a_sensor_topic_of_a_type_without_a_header_is_rejected_and_counted(
    run_replay, drive_bag: Path
):
    cameras = {
        "front": CameraConfig(topic="/front/image/compressed", info_topic="/front/camera_info"),
        "wrong": CameraConfig(topic="/tf", info_topic="/left/camera_info"),
    }
    summary = run_replay(drive_bag, Rig(cameras=cameras, fixed_frame=None))
    assert set(summary["sensors"]["wrong"]["rejected"]) == {"wrong_type"}
    assert summary["sensors"]["front"]["used"] == 20
