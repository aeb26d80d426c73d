"""From heatmap peaks to boxes: where they are, which of two stays, and what is never published."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bev_runtime.detection_decoder import DetectionDecoder
from bev_runtime.errors import BackendError
from bev_runtime.manifest import Detection
from bev_runtime.types import BevGrid, Detections

GRID = BevGrid(-16.0, 32.0, -12.0, 12.0, 0.8)
CLASSES = ("car", "pedestrian")
EVERYWHERE = np.ones(GRID.shape, bool)


def spec(**change: object) -> Detection:
    fields = {
        "kind": "center_heatmap",
        "heatmap": "heat",
        "boxes": "terms",
        "classes": CLASSES,
        "score_threshold": 0.1,
        "max_detections": 20,
        "nms_radius": (2.0, 0.5),
    }
    return Detection(**{**fields, **change})


def empty() -> tuple[np.ndarray, np.ndarray]:
    heatmap = np.full((1, len(CLASSES), *GRID.shape), -8.0, np.float32)
    terms = np.zeros((1, 10, *GRID.shape), np.float32)
    terms[0, 7] = 1
    return heatmap, terms


def decode(heatmap: np.ndarray, terms: np.ndarray, **change: object) -> Detections:
    return DetectionDecoder(spec(**change), GRID).decode(heatmap, terms, EVERYWHERE)


def test_a_peak_becomes_the_box_that_its_terms_describe():
    heatmap, terms = empty()
    heatmap[0, 1, 7, 20] = 1.2
    yaw = 2.5
    terms[0, :, 7, 20] = [
        *(0.3, -0.4, 0.85),
        *np.log([0.7, 0.6, 1.75]),
        *(3 * math.sin(yaw), 3 * math.cos(yaw)),
        *(1.5, -0.25),
    ]
    found = decode(heatmap, terms)
    x, y = -16 + (7.5 + 0.3) * 0.8, -12 + (20.5 - 0.4) * 0.8
    expected = [x, y, 0.85, 0.7, 0.6, 1.75, yaw, 1.5, -0.25]
    assert np.allclose(found.boxes, [expected], atol=1e-5)
    assert found.boxes.dtype == np.float32
    assert found.scores == pytest.approx(1 / (1 + math.exp(-1.2)))
    assert (found.labels.tolist(), found.classes) == ([1], CLASSES)


@pytest.mark.parametrize("yaw", [0.0, 0.4, 1.5, 1.6, 2.5, 3.1, -0.4, -1.5, -1.6, -2.5, -3.1])
def test_with_an_axis_of_its_own_the_heading_only_says_where_the_front_is(yaw: float):
    heatmap, terms = empty()
    terms = np.concatenate([terms, np.zeros_like(terms[:, :2])], axis=1)
    heatmap[0, 1, 7, 20] = 1.2
    rough = yaw + 0.9  # far off the axis, and short
    terms[0, 6:8, 7, 20] = 0.1 * math.sin(rough), 0.1 * math.cos(rough)
    terms[0, 10:, 7, 20] = 3 * math.sin(2 * yaw), 3 * math.cos(2 * yaw)
    assert decode(heatmap, terms).boxes[0, 6] == pytest.approx(yaw, abs=1e-5)


def test_only_local_maxima_above_the_threshold_are_found_also_at_the_border():
    heatmap, terms = empty()
    threshold = math.log(0.1 / 0.9)
    for row, column, logit in ((0, 0, 1.0), (59, 29, 0.5), (30, 15, threshold + 0.01)):
        heatmap[0, 0, row, column] = logit
    heatmap[0, 0, 1, 1] = heatmap[0, 0, 0, 1] = 0.9  # beside a higher one
    heatmap[0, 0, 40, 5] = threshold - 0.01
    found = decode(heatmap, terms)
    assert len(found.scores) == 3
    assert (np.diff(found.scores) < 0).all()
    assert found.boxes[:, 0] == pytest.approx([-15.6, 31.6, -16 + 30.5 * 0.8])


def test_of_two_centres_of_a_class_within_its_radius_the_better_one_stays():
    heatmap, terms = empty()
    for label in (0, 1):
        heatmap[0, label, 10, 10], heatmap[0, label, 12, 10] = 0.5, 0.8  # 1.6 m apart
    heatmap[0, 0, 14, 10] = 0.3  # 1.6 m from one that stays, 3.2 m from one that goes
    found = decode(heatmap, terms)
    rows = np.floor((found.boxes[:, 0] + 16) / 0.8).astype(int).tolist()
    assert sorted(zip(found.labels.tolist(), rows, strict=True)) == [(0, 12), (1, 10), (1, 12)]
    chain = decode(heatmap, terms, nms_radius=(1.7, 0.5))
    assert (chain.labels == 0).sum() == 1
    heatmap[0, 0, 16, 10] = 0.1  # suppressed only by one that is itself suppressed: stays
    assert (decode(heatmap, terms).labels == 0).sum() == 2


def test_suppression_equals_a_plain_loop_on_random_peaks():
    rng = np.random.default_rng(3)
    for _ in range(20):
        heatmap, terms = empty()
        heatmap[0] = rng.normal(-2, 1.5, heatmap.shape[1:])
        terms[0, :2] = rng.uniform(-1, 1, (2, *GRID.shape))
        every = decode(heatmap, terms, nms_radius=(0.0, 0.0), max_detections=1000)
        radii, kept = np.array([2.0, 0.5], np.float32), []
        for index, (box, label) in enumerate(zip(every.boxes, every.labels, strict=True)):
            near = [
                every.labels[k] == label
                and np.sum((every.boxes[k, :2] - box[:2]) ** 2) < radii[label] ** 2
                for k in kept
            ]
            if not any(near):
                kept.append(index)
        found = decode(heatmap, terms, max_detections=1000)
        assert 20 < len(kept) < len(every.scores)
        assert np.array_equal(found.boxes, every.boxes[kept])


def test_no_more_than_the_limit_are_returned_and_they_are_the_best():
    rng = np.random.default_rng(1)
    heatmap, terms = empty()
    heatmap[0, 0, ::4, ::4] = rng.uniform(0, 3, (15, 8))
    found = decode(heatmap, terms, max_detections=7)
    best = np.sort(heatmap[0, 0].ravel())[::-1][:7]
    assert found.scores == pytest.approx(1 / (1 + np.exp(-best)))


def test_a_heatmap_that_is_high_everywhere_gives_no_more_than_the_limit():
    heatmap, terms = empty()
    heatmap[:] = 1.0
    found = decode(heatmap, terms)
    assert 0 < len(found.scores) <= 20
    same = [label for label, box in zip(found.labels, found.boxes, strict=True) if label == 0]
    distances = np.linalg.norm(found.boxes[:, None, :2] - found.boxes[:, :2], axis=-1)
    both = (
        (found.labels[:, None] == 0) & (found.labels == 0) & ~np.eye(len(found.labels), dtype=bool)
    )
    assert same
    assert not both.any() or distances[both].min() >= 2.0


def test_what_peaks_where_no_live_sensor_looks_is_no_detection():
    heatmap, terms = empty()
    heatmap[0, 0, 10, 10] = heatmap[0, 0, 40, 10] = 2.0
    observed = EVERYWHERE.copy()
    observed[35:] = False
    found = DetectionDecoder(spec(), GRID).decode(heatmap, terms, observed)
    assert found.boxes[:, 0] == pytest.approx([-16 + 10.5 * 0.8])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", [0, 1])
def test_a_network_output_that_is_no_number_anywhere_gives_an_error(tensor, value):
    tensors = empty()
    tensors[tensor][0, 1, 50, 3] = value
    with pytest.raises(BackendError, match=("heat", "terms")[tensor]):
        decode(*tensors)


def test_wild_terms_give_finite_boxes_of_a_possible_size_near_their_cell():
    heatmap, terms = empty()
    heatmap[0, 0, 20, 10] = 3
    terms[0, :, 20, 10] = [1e30, -1e30, 2, 1e30, -1e30, 500, 0, 0, 1, 1]
    (box,) = decode(heatmap, terms).boxes
    assert np.isfinite(box).all()
    assert 0 < box[3:6].min() < box[3:6].max() < 60
    assert abs(box[0] - (-16 + 20.5 * 0.8)) < 2


def test_results_live_in_the_decoders_own_memory_and_change_with_the_next_call():
    decoder = DetectionDecoder(spec(), GRID)
    heatmap, terms = empty()
    heatmap[0, 0, 10, 10] = 1
    first = decoder.decode(heatmap, terms)
    heatmap[0, 0, 10, 10], heatmap[0, 0, 30, 10] = -8, 1
    second = decoder.decode(heatmap, terms)
    assert np.shares_memory(first.boxes, second.boxes)
    heatmap[:] = -8
    assert len(decoder.decode(heatmap, terms).scores) == 0
