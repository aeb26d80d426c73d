import numpy as np
import pytest

from bev_runtime.errors import SampleRejected
from bev_runtime.fusion import choose_plan
from bev_runtime.rig import Timing
from bev_runtime.sensors import SensorBuffer
from bev_runtime.types import CameraFrame, Mode

SECOND = 1_000_000_000
NOW = 100 * SECOND
IMAGE = np.zeros((4, 4, 3), np.uint8)


def frame(stamp_ns: int) -> CameraFrame:
    return CameraFrame.from_rgb("C", stamp_ns, IMAGE)


@pytest.fixture
def buffer() -> SensorBuffer:
    return SensorBuffer(["C"], Timing())


def reason_of(buffer: SensorBuffer, stamp_ns: int, now_ns: int = NOW) -> str | None:
    try:
        buffer.check_stamp("C", stamp_ns, now_ns)
    except SampleRejected as problem:
        return problem.reason
    return None


def test_stamps_are_refused_with_the_right_reason(buffer):
    buffer.put(frame(NOW - SECOND // 20))
    assert reason_of(buffer, NOW) is None
    assert reason_of(buffer, 0) == "zero_stamp"
    assert reason_of(buffer, NOW + SECOND) == "future"
    assert reason_of(buffer, NOW - SECOND // 5) == "late"
    assert reason_of(buffer, NOW - SECOND // 20) == "duplicate"
    assert reason_of(buffer, NOW - SECOND // 10) == "out_of_order"


def test_every_sample_is_used_superseded_or_rejected(buffer):
    account = buffer.accounts["C"]
    for i in range(10):
        account.received += 1
        buffer.put(frame(NOW + i))
        if i % 3 == 0:
            buffer.mark_used("C")
            buffer.mark_used("C")  # a sample that serves two outputs is used once
        if i == 4:
            buffer.reject("C", "corrupt_jpeg")
    account.received += 1
    buffer.put(frame(NOW + 99))
    buffer.finish()
    total = account.used + account.superseded + sum(account.rejected.values())
    assert account.received == total == 11
    assert (account.used, account.rejected["corrupt_jpeg"], account.rejected["unused_at_end"]) == (
        4,
        1,
        1,
    )


def test_a_cleared_buffer_accepts_earlier_stamps_again(buffer):
    buffer.put(frame(NOW))
    buffer.clear("clock_jump")
    assert buffer.newest("C") is None
    assert buffer.accounts["C"].rejected["clock_jump"] == 1
    assert reason_of(buffer, NOW - 50 * SECOND, NOW - 50 * SECOND) is None


@pytest.mark.parametrize(
    ("lidar", "missing", "mode"),
    [
        (None, {}, Mode.FULL),
        (None, {"A": "lost"}, Mode.DEGRADED),
        (None, {"A": "lost", "B": "lost"}, Mode.BLIND),
        ("L", {}, Mode.FULL),
        ("L", {"A": "lost"}, Mode.DEGRADED),
        ("L", {"L": "lost"}, Mode.CAMERA_ONLY),
        ("L", {"A": "lost", "L": "lost"}, Mode.CAMERA_ONLY),
        ("L", {"A": "lost", "B": "lost"}, Mode.LIDAR_ONLY),
        ("L", {"A": "lost", "B": "lost", "L": "lost"}, Mode.BLIND),
    ],
)
def test_the_plan_names_mode_and_every_missing_sensor(lidar, missing, mode):
    plan = choose_plan(["A", "B"], lidar, missing)
    assert plan.mode is mode
    assert plan.cameras == tuple(name for name in "AB" if name not in missing)
    assert plan.use_lidar == (lidar is not None and lidar not in missing)
    assert all(f"{name}: lost" in plan.reason for name in missing)


def test_a_rig_without_any_sensor_of_the_model_is_blind_and_says_so():
    plan = choose_plan([], None, {})
    assert plan.mode is Mode.BLIND
    assert "no sensor that this model takes" in plan.reason
