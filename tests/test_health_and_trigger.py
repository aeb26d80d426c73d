import numpy as np
import pytest

from bev_runtime.health import HealthMonitor, SensorState
from bev_runtime.rig import CameraConfig, LidarConfig, Rig, Timing
from bev_runtime.trigger import Trigger

MS = 1_000_000
PERIOD = 83 * MS


def make_rig(cameras: int = 3, **timing) -> Rig:
    return Rig(
        cameras={f"C{i}": CameraConfig(topic=f"/c{i}") for i in range(cameras)},
        lidar=LidarConfig(name="L", topic="/l"),
        timing=Timing(**timing),
    )


def states(monitor: HealthMonitor, now_ns: int) -> dict[str, SensorState]:
    return {name: health.state for name, health in monitor.report(now_ns).items()}


def test_a_silent_sensor_is_lost_after_its_timeout_and_not_before():
    monitor = HealthMonitor(make_rig(1))
    monitor.seen("C0", 0)
    monitor.seen("L", 0)
    assert states(monitor, 299 * MS)["C0"] is SensorState.OK
    assert states(monitor, 301 * MS)["C0"] is SensorState.LOST
    assert "silent for more than 0.3 s" in monitor.report(301 * MS)["C0"].cause


def test_a_lost_sensor_is_trusted_again_only_after_enough_good_samples_and_time():
    monitor = HealthMonitor(make_rig(1, recovery_samples=3, min_dwell_s=0.5))
    monitor.seen("C0", 0)
    lost_at = 400 * MS
    assert states(monitor, lost_at)["C0"] is SensorState.LOST
    for i in range(8):
        now = lost_at + (i + 1) * PERIOD
        monitor.seen("C0", now)
        expected = SensorState.OK if now - lost_at >= 500 * MS else SensorState.LOST
        assert states(monitor, now)["C0"] is expected


def test_one_good_sample_after_a_long_loss_is_not_enough():
    monitor = HealthMonitor(make_rig(1))
    monitor.seen("C0", 0)
    monitor.report(400 * MS)
    monitor.seen("C0", 60_000 * MS)
    assert states(monitor, 60_000 * MS)["C0"] is SensorState.LOST


def test_a_sensor_that_never_started_is_called_lost_after_the_timeout():
    monitor = HealthMonitor(make_rig(2))
    monitor.seen("C0", 0)
    assert states(monitor, 100 * MS)["C1"] is SensorState.WAITING
    assert monitor.report(400 * MS)["C1"].cause == "never sent a sample"


def test_a_sensor_whose_samples_are_all_rejected_is_lost_with_the_reason():
    monitor = HealthMonitor(make_rig(1))
    monitor.seen("C0", 0)
    for i in range(1, 6):
        monitor.rejected("C0", "late", i * PERIOD)
    assert monitor.report(5 * PERIOD)["C0"].cause == "samples rejected as late"


def test_a_flapping_sensor_changes_state_at_most_once_in_half_a_second():
    monitor = HealthMonitor(make_rig(1))
    changes, last = [], None
    for i in range(300):
        now = i * 25 * MS
        if (now // (1000 * MS)) % 2 == 0 and i % 3 == 0:
            monitor.seen("C0", now)
        state = states(monitor, now)["C0"]
        if last is not None and state is not last:
            changes.append(now)
        last = state
    assert len(changes) >= 6
    assert np.diff(changes).min() >= 500 * MS


def test_a_slow_sensor_with_its_rate_given_is_not_lost_between_frames():
    rig = Rig(cameras={"C0": CameraConfig(topic="/c", rate_hz=1.0)})
    monitor = HealthMonitor(rig)
    monitor.seen("C0", 0)
    assert states(monitor, 1000 * MS)["C0"] is SensorState.OK
    assert states(monitor, 2600 * MS)["C0"] is SensorState.LOST


def test_a_camera_that_repeats_one_image_while_others_change_is_frozen():
    monitor = HealthMonitor(make_rig(3, frozen_samples=5))
    for i in range(8):
        now = i * PERIOD
        monitor.seen("C0", now, fingerprint=7)
        monitor.seen("C1", now, fingerprint=i)
        monitor.seen("C2", now, fingerprint=100 + i)
    report = monitor.report(7 * PERIOD)
    assert report["C0"].state is SensorState.LOST
    assert "frozen" in report["C0"].cause
    assert report["C1"].state is SensorState.OK


def test_a_rig_whose_cameras_all_stand_still_is_not_frozen():
    monitor = HealthMonitor(make_rig(3, frozen_samples=5))
    for i in range(20):
        for j, name in enumerate(("C0", "C1", "C2")):
            if name != "C2" or i > 8:  # one that joins late is no sign of life in the picture
                now = i * PERIOD + j * 10 * MS
                monitor.seen(name, now, fingerprint=j)
                assert states(monitor, now)["C0"] is SensorState.OK, i
    assert states(monitor, 19 * PERIOD)["C1"] is SensorState.OK


def test_a_frozen_camera_recovers_when_its_image_moves_again():
    monitor = HealthMonitor(make_rig(3, frozen_samples=5))
    for i in range(40):
        now = i * PERIOD
        monitor.seen("C0", now, fingerprint=7 if i < 20 else i)
        monitor.seen("C1", now, fingerprint=i)
        monitor.seen("C2", now, fingerprint=i)
        monitor.report(now)
    assert states(monitor, 39 * PERIOD)["C0"] is SensorState.OK


@pytest.fixture
def trigger() -> Trigger:
    return Trigger(["A", "B"], "L", Timing(max_wait_s=0.07, heartbeat_s=0.1))


def test_the_trigger_fires_when_all_live_sensors_delivered(trigger):
    trigger.on_sample("A", 0)
    trigger.on_sample("L", 10)
    assert not trigger.is_complete({"A", "B", "L"})
    trigger.on_sample("B", 20)
    assert trigger.is_complete({"A", "B", "L"})


def test_a_lost_sensor_is_not_waited_for(trigger):
    trigger.on_sample("A", 0)
    trigger.on_sample("L", 10)
    assert trigger.is_complete({"A", "L"})


def test_a_late_sensor_is_waited_for_no_longer_than_max_wait(trigger):
    trigger.on_sample("A", 5 * MS)
    assert trigger.deadline_ns() == 75 * MS
    assert not trigger.is_overdue(74 * MS)
    assert trigger.is_overdue(75 * MS)


def test_the_reference_sensor_alone_starts_no_cycle(trigger):
    trigger.on_sample("L", 0)
    assert not trigger.has_new_input()
    assert not trigger.is_complete({"L"})


def test_without_input_the_heartbeat_fires(trigger):
    trigger.start(0)
    assert trigger.deadline_ns() == 100 * MS
    trigger.fired(100 * MS)
    assert trigger.deadline_ns() == 200 * MS
