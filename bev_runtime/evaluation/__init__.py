"""Metrics of detections and maps against the truth; see docs/evaluate.md."""

from bev_runtime.evaluation.detection import ClassMetrics, DetectionMetrics
from bev_runtime.evaluation.files import BoxSet, EvaluationError
from bev_runtime.evaluation.maps import LayerMetrics, MapMetrics
from bev_runtime.evaluation.report import Options, Report, evaluate

__all__ = [
    "BoxSet",
    "ClassMetrics",
    "DetectionMetrics",
    "EvaluationError",
    "LayerMetrics",
    "MapMetrics",
    "Options",
    "Report",
    "evaluate",
]
