import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_runtime.bags import Message
from bev_runtime.errors import ConfigError
from bev_runtime.faults import FaultProxy, parse_fault

SENSORS = ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP")
TOPICS = {f"/{name}": name for name in SENSORS}
MS = 1_000_000


def stream(seconds: float = 10.0, period_ms: int = 100) -> list[Message]:
    """Messages whose bytes are a CDR header with the stamp, then a payload of their own."""
    messages = []
    for i in range(int(seconds * 1000 / period_ms)):
        for topic in (*TOPICS, "/tf"):
            time_ns = i * period_ms * MS
            raw = struct.pack("<4xii", time_ns // 10**9, time_ns % 10**9) + i.to_bytes(4, "little")
            messages.append(Message(time_ns, topic, "x", raw))
    return messages


def run(*specs: str, seed: int = 0) -> tuple[list[Message], FaultProxy]:
    proxy = FaultProxy([parse_fault(s, SENSORS) for s in specs], TOPICS, seed)
    return list(proxy.apply(stream(), 0)), proxy


def of(messages: list[Message], sensor: str) -> list[Message]:
    return [m for m in messages if TOPICS.get(m.topic) == sensor]


def test_drop_removes_one_sensor_inside_its_window_only():
    out, proxy = run("drop:CAM_FRONT@2-5")
    times = [m.time_ns / 1e9 for m in of(out, "CAM_FRONT")]
    assert all(not 2 <= t < 5 for t in times)
    assert len(times) == 70
    assert of(out, "CAM_BACK") == of(stream(), "CAM_BACK")
    assert proxy.affected == {"drop:CAM_FRONT@2-5": 30}


def test_a_pattern_hits_every_matching_sensor_and_no_other_topic():
    out, _ = run("drop:CAM_*")
    assert {m.topic for m in out} == {"/LIDAR_TOP", "/tf"}


def test_freeze_repeats_the_last_payload_under_new_stamps():
    out, _ = run("freeze:CAM_BACK@3-")
    frames = of(out, "CAM_BACK")
    clean = of(stream(), "CAM_BACK")
    assert frames[:30] == clean[:30]
    assert {m.raw[12:] for m in frames[30:]} == {clean[29].raw[12:]}
    assert [m.raw[4:12] for m in frames] == [m.raw[4:12] for m in clean]


def test_delay_moves_arrival_and_keeps_the_stamp_and_the_order_of_time():
    out, _ = run("delay:LIDAR_TOP,ms=250")
    assert [m.time_ns for m in out] == sorted(m.time_ns for m in out)
    assert [m.time_ns - 250 * MS for m in of(out, "LIDAR_TOP")] == [
        m.time_ns for m in of(stream(), "LIDAR_TOP")
    ]
    assert [m.raw for m in of(out, "LIDAR_TOP")] == [m.raw for m in of(stream(), "LIDAR_TOP")]


def test_jitter_delays_each_message_by_another_amount_up_to_its_limit():
    out, _ = run("jitter:CAM_*,ms=40")
    by_raw = {m.raw: m.time_ns for m in of(stream(), "CAM_FRONT")}
    extra = np.array([m.time_ns - by_raw[m.raw] for m in of(out, "CAM_FRONT")]) / MS
    assert 0 <= extra.min() < 8
    assert 32 < extra.max() <= 40
    assert len(set(extra)) > 50


def test_random_faults_repeat_with_the_seed_and_differ_with_another():
    first, _ = run("drop:CAM_FRONT,p=0.3", seed=7)
    again, _ = run("drop:CAM_FRONT,p=0.3", seed=7)
    other, _ = run("drop:CAM_FRONT,p=0.3", seed=8)
    assert first == again
    assert first != other
    assert 50 < len(of(first, "CAM_FRONT")) < 90


def test_adding_a_fault_does_not_change_the_random_numbers_of_another():
    alone, _ = run("drop:CAM_FRONT,p=0.3")
    both, _ = run("drop:CAM_FRONT,p=0.3", "jitter:CAM_BACK")
    assert of(alone, "CAM_FRONT") == of(both, "CAM_FRONT")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("drop", "cannot be read, expected KIND:SENSOR"),
        ("melt:CAM_FRONT", "unknown kind 'melt'"),
        ("drop:CAM_TOP", "no sensor matches 'CAM_TOP', the rig has CAM_FRONT"),
        ("drop:CAM_FRONT@5-2", "is empty"),
        ("drop:CAM_FRONT,ms=3", "drop has no parameter 'ms'"),
        ("drop:CAM_FRONT,p=2", "p must be in 0..1"),
        ("delay:CAM_FRONT,ms=-1", "ms must be in 0..3600000, got -1"),
        ("delay:CAM_FRONT,ms=x", "'x' is not a number"),
        ("delay:CAM_FRONT,ms=nan", "'nan' is not a number"),
        ("drop:CAM_FRONT@.-3", "'.' is not a number"),
    ],
)
def test_a_wrong_specification_is_explained(spec, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        parse_fault(spec, SENSORS)


@given(st.text(max_size=40))
def test_no_text_makes_the_parser_fail_in_another_way(text):
    with suppress(ConfigError):
        parse_fault(text, SENSORS)
