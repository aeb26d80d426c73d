"""`python -m bev_export fp16` and `quantise`; they need ONNX Runtime and no torch."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_export.package import ExportError
from bev_export.precision.accuracy import accuracy_rows, compare_accuracy
from bev_export.precision.convert import METHODS, TARGETS, Int8
from bev_export.precision.errors import Errors, measure_errors
from bev_export.precision.frames import collect_frames
from bev_export.precision.rewrite import (
    gather_samples,
    half_stages,
    int8_stages,
    rewritten,
    write_rewritten,
)
from bev_export.precision.search import search
from bev_export.verify.capture import Call, KeepingBackend
from bev_export.verify.checks import run_cases
from bev_export.verify.commands import lowest_precision
from bev_runtime.model import ModelPackage, load_model

KEEP = "--keep"
HELD_OUT = 4
"""Every fourth frame measures and does not calibrate."""


def add_command(subparsers: Any) -> None:  # noqa: ANN401 (argparse names no public type for it)
    """Adds `fp16` and `quantise`."""
    half = subparsers.add_parser(
        "fp16",
        help="a package in half precision",
        epilog="example: python -m bev_export fp16 metabev_tiny --out metabev_tiny_fp16",
    )
    _add_common(half)
    half.add_argument("--bag", type=Path, help="measures on it, instead of on made-up frames")
    half.set_defaults(run=run_half)
    int8 = subparsers.add_parser(
        "quantise",
        help="a package with 8-bit integers, calibrated on a bag",
        epilog="example: python -m bev_export quantise metabev_tiny --bag drive --truth drive "
        "--max-error 0.1 --out metabev_tiny_int8",
    )
    _add_common(int8)
    int8.add_argument("--bag", type=Path, required=True, help="calibrates, and measures the error")
    int8.add_argument(
        "--method", choices=sorted(METHODS), default="minmax", help="default: %(default)s"
    )
    int8.add_argument(
        "--for",
        dest="target",
        choices=sorted(TARGETS),
        default="tensorrt",
        help="who runs it: TensorRT, or ONNX Runtime on a CPU (default: %(default)s)",
    )
    int8.add_argument(
        "--max-error",
        type=float,
        metavar="SHARE",
        help="keep the most harmful layers in float32 until no output is off by more than this "
        "share of its deviation (root mean square)",
    )
    int8.set_defaults(run=run_int8)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="model folder, or the name of a shipped model, in float32")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new package")
    parser.add_argument(
        KEEP,
        action="append",
        default=[],
        metavar="NAME",
        help="a node that stays in float32; * stands for anything; may be repeated",
    )
    parser.add_argument("--rig", type=Path, help="rig file of the bag (default: inferred)")
    parser.add_argument(
        "--frames", type=int, default=16, help="taken from the bag (default: %(default)s)"
    )
    parser.add_argument(
        "--truth", type=Path, help="evaluates both packages on the bag against it: minutes"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_half(options: argparse.Namespace) -> str:
    """Writes a package in half precision, and measures it."""
    model = _load(options)
    stages = half_stages(model, options.keep)
    note = "Weights and arithmetic in float16, inputs, outputs and pooling in float32."
    calls = _frames(model, options) if options.bag is not None else _made_up(model)
    coarse = rewritten(model, stages, "_fp16")
    errors = measure_errors(model, coarse, calls)
    return _finish(options, model, stages, suffix="_fp16", note=note, errors=errors, kept=())


def run_int8(options: argparse.Namespace) -> str:
    """Calibrates on a bag, writes a package with 8-bit integers, and measures it."""
    model = _load(options)
    if options.max_error is not None and not options.max_error > 0:
        raise ExportError(f"--max-error {options.max_error:g}: expected a number above 0")
    calls, how = _frames(model, options), Int8(options.target, options.method)
    measured = calls[HELD_OUT - 1 :: HELD_OUT] or calls
    calibrating = [call for call in calls if all(call is not other for other in measured)] or calls
    samples = gather_samples(model, calibrating)
    kept: Sequence[str] = ()
    if options.max_error is None:
        stages = int8_stages(model, samples, options.keep, how)
    else:
        lines: list[str] = []
        found = search(
            model,
            samples,
            measured,
            keep=options.keep,
            how=how,
            max_error=options.max_error,
            tell=lines.append,
            error_of=lambda a, b, c: measure_errors(a, b, c, inside=False).largest,
        )
        stages, kept = found.stages, found.kept
    errors = measure_errors(model, rewritten(model, stages, "_int8"), measured)
    note = (
        f"Convolutions and matrix products in INT8 (Q/DQ for {how.target}, {how.method}), "
        f"calibrated on {len(calibrating)} frames of {options.bag.name}"
        + (f"; {len(kept)} layers kept in float32" if kept else "")
        + "."
    )
    return _finish(options, model, stages, suffix="_int8", note=note, errors=errors, kept=kept)


def _finish(
    options: argparse.Namespace,
    model: ModelPackage,
    stages: Mapping[str, bytes],
    *,
    suffix: str,
    note: str,
    errors: Errors,
    kept: Sequence[str],
) -> str:
    accuracy: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    if options.truth is not None:
        if options.bag is None:
            raise ExportError("--truth needs --bag: both packages are evaluated on it")
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "model"
            write_rewritten(model, stages, place, suffix=suffix, note=note, accuracy=())
            accuracy = compare_accuracy(
                model, load_model(place), options.bag, options.truth, options.rig
            )
        rows = accuracy_rows(accuracy, options.bag.name)
    write_rewritten(model, stages, options.out, suffix=suffix, note=note, accuracy=rows)
    before = sum(len(model.stage_bytes(name)) for name in stages)
    sizes = {"before": before, "after": sum(map(len, stages.values()))}
    if options.json:
        found = {
            "out": str(options.out),
            "bytes": sizes,
            "kept": list(kept),
            "errors": errors.as_dict(),
            "accuracy": accuracy,
        }
        return json.dumps(found, indent=2)
    lines = [f"wrote {options.out} ({sizes['after']} bytes of ONNX, {before} before)"]
    lines += [f"kept in float32: {name}" for name in kept]
    lines.append(errors.text())
    for name, values in accuracy.items():
        lines.append(f"{name}: {values['before']:.4f} before, {values['after']:.4f} after")
    return "\n".join(lines)


def _load(options: argparse.Namespace) -> ModelPackage:
    model = load_model(options.package)
    precision = lowest_precision(model)
    if precision != "fp32":
        raise ExportError(
            f"{model.folder} is in {precision} already, expected a package in float32: take the "
            "one that it was made from"
        )
    if options.frames < 1:
        raise ExportError(f"--frames {options.frames}: expected 1 or more")
    if options.out.resolve() == model.folder.resolve():
        raise ExportError(f"--out {options.out} is the package itself, expected another folder")
    return model


def _frames(model: ModelPackage, options: argparse.Namespace) -> list[Call]:
    return collect_frames(model, options.bag, most=options.frames, rig=options.rig)


def _made_up(model: ModelPackage) -> list[Call]:
    with KeepingBackend(model, num_threads=1) as backend:
        return [case.call for case in run_cases(model, backend)]
