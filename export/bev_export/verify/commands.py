"""`python -m bev_export verify`, readable without torch."""

from __future__ import annotations

import argparse
import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from bev_export.package import ExportError
from bev_export.verify.capture import KeepingBackend
from bev_export.verify.checks import (
    Check,
    Options,
    check_pooling,
    check_repeats,
    check_sensitivity,
    check_serving,
    check_torch,
    run_cases,
)
from bev_export.verify.compare import TOLERANCES, Tolerance
from bev_export.verify.report import Report
from bev_runtime.backends.engine_parts import precision_of
from bev_runtime.model import ModelPackage, load_model

EPILOG = """\
examples:
  python -m bev_export verify metabev_tiny
  python -m bev_export verify model --checkpoint weights.pt --json

Exit code 1 if anything differs; the report names the first tensor that does. See docs/verify.md.
"""


def add_command(subparsers: Any) -> None:  # noqa: ANN401 (argparse names no public type for it)
    """Adds `verify`."""
    parser = subparsers.add_parser(
        "verify",
        help="is a package what its checkpoint says, and does it look at its sensors?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("package", help="model folder, or the name of a shipped model")
    parser.add_argument(
        "--checkpoint", type=Path, help="the weights it was made from: compares with torch"
    )
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="TENSOR=RMS",
        help="largest root mean square difference of a tensor, in its deviations; its worst "
        "element may be 20 times as far off; may be repeated",
    )
    parser.add_argument(
        "--min-share",
        type=float,
        default=0.02,
        help="of its deviation that an output must move by when a sensor changes "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="for serving (default: all of this process)"
    )
    parser.add_argument("--repeats", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--no-engines", action="store_true", help="do not compile for TensorRT-RTX")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Verifies as the command line asks.

    Returns:
        The report.

    Raises:
        ExportError: a check failed; the report was printed.
    """
    if not (options.min_share > 0 and options.repeats >= 2 and options.threads >= 0):
        raise ExportError(
            f"--min-share {options.min_share:g}, --repeats {options.repeats}, --threads "
            f"{options.threads}: expected a share above 0, 2 repeats or more, no negative threads"
        )
    model = load_model(options.package)
    precision = lowest_precision(model)
    limits = Options(
        tolerance=TOLERANCES[precision],
        by_tensor=dict(parse_tolerance(text) for text in options.tolerance),
        min_share=options.min_share,
        repeats=options.repeats,
    )
    threads = options.threads or len(os.sched_getaffinity(0))
    report = verify(
        model,
        limits,
        checkpoint=options.checkpoint,
        threads=threads,
        engines=not options.no_engines,
    )
    text = report.json() if options.json else report.text()
    if report.passed:
        return text
    print(text)  # noqa: T201 (the command line prints)
    failed = [check.name for check in report.checks if check.passed is False]
    raise ExportError(f"{model.folder} is not verified: {'; '.join(failed)}")


def verify(
    model: ModelPackage,
    limits: Options,
    *,
    checkpoint: Path | None = None,
    threads: int,
    engines: bool = True,
) -> Report:
    """Makes every check.

    Args:
        model: what to check.
        limits: how strictly.
        checkpoint: what it should have been made from; without one torch is left out.
        threads: for serving.
        engines: compile for TensorRT-RTX too, where it is installed.

    Raises:
        ExportError: the checkpoint is not one of the package's family, or torch is missing.
    """
    reference = None
    if checkpoint is not None:
        try:
            module = import_module("bev_export.verify.reference")
        except ImportError as problem:
            raise ExportError(f"{problem}: install with `pip install bev-runtime[train]`") from None
        reference = module.load_reference(model.manifest, checkpoint)
    checks: list[Check] = []
    with KeepingBackend(model, num_threads=threads) as backend:
        cases = run_cases(model, backend)
        checks += check_sensitivity(model, backend, limits)
        checks += check_pooling(model, cases)
        checks += check_serving(model, cases, limits, threads)
        if reference is not None:
            checks += check_torch(model, reference, cases, limits)
        else:
            checks.append(Check("torch", None, "not compared: no --checkpoint was given"))
        checks += check_repeats(backend, cases, limits)
    if engines:
        from bev_export.verify.engines import check_engines

        checks += check_engines(model)
    return Report(model.manifest.name, lowest_precision(model), checks)


def lowest_precision(model: ModelPackage) -> str:
    """`int8`, `fp16` or `fp32`: the coarsest that a stage's weights have."""
    found = {
        kind
        for stage in model.manifest.stages
        for kind in precision_of(model.stage_graph(stage.name).graph).split("+")
    }
    return next((kind for kind in ("int8", "fp16") if kind in found), "fp32")


def parse_tolerance(text: str) -> tuple[str, Tolerance]:
    """`heatmap=0.001`."""
    name, _, value = text.partition("=")
    try:
        rms = float(value)
    except ValueError:
        rms = math.nan
    if not name or not rms > 0:
        raise ExportError(f"--tolerance {text}: expected TENSOR=RMS with a number above 0")
    return name, Tolerance(20 * rms, rms)
