"""`bev-runtime evaluate`: how good were the detections and maps of a run?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from bev_runtime.cli.console import print_json, results
from bev_runtime.errors import ConfigError
from bev_runtime.evaluation import Options, Report, evaluate
from bev_runtime.evaluation.detection import ERROR_UNITS, ERRORS
from bev_runtime.model import load_model

EPILOG = """\
examples:
  bev-runtime replay drive --model metabev_tiny --out out
  bev-runtime evaluate out --truth drive --model metabev_tiny
  bev-runtime evaluate out/detections.jsonl --truth boxes.json --classes car,truck --range 40 --json

The metrics are those of nuScenes (docs/evaluate.md). An output is compared with the truth of its
very stamp unless --max-age allows more; a truth without an output counts as missed.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "evaluate",
        help="compare detections and maps with the truth",
        description="Average precision, NDS and map IoU of a run, as nuScenes defines them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results",
        type=Path,
        help="folder of a replay, a detections.jsonl, or a bev-boxes-1 file with scores",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        required=True,
        help="a bev-boxes-1 file, or a bag's folder with ground_truth.json or truth.npz",
    )
    parser.add_argument(
        "--classes", help="comma-separated; mAP goes over these (default: all that the truth knows)"
    )
    parser.add_argument(
        "--range",
        dest="ranges",
        help="metres within which boxes count: a number, or car=50,pedestrian=40 "
        "(default: those of nuScenes)",
    )
    parser.add_argument(
        "--max-age",
        type=float,
        default=0.0,
        metavar="S",
        help="an output may be this many seconds off its truth (default 0: the same stamp)",
    )
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help="leave out moments without an output instead of counting them as missed",
    )
    parser.add_argument(
        "--thresholds",
        help="of map layers, for example drivable_area=0.5,crossing=0.4 (default: the model's, or "
        "the best)",
    )
    parser.add_argument("--model", help="take the thresholds of map layers from this model")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares and reports."""
    if not 0 <= args.max_age <= 10:
        raise ConfigError(f"--max-age {args.max_age:g}: expected 0 to 10 seconds")
    report = evaluate(
        args.results,
        args.truth,
        Options(
            classes=parse_names("--classes", args.classes),
            ranges=parse_ranges(args.ranges),
            max_age_s=args.max_age,
            skip_missing=args.skip_missing,
            thresholds=_thresholds(args),
        ),
    )
    if args.json:
        print_json({"results": args.results, "truth": args.truth, **report.as_dict()})
    else:
        print_report(report)
    return 0


def parse_names(option: str, text: str | None) -> tuple[str, ...] | None:
    """Comma-separated names."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise ConfigError(f"{option} {text}: expected names, each once, with commas between them")
    return names


def parse_ranges(text: str | None) -> Mapping[str, float] | float | None:
    """A number of metres, or one for each of some classes."""
    if text is None:
        return None
    values = parse_numbers("--range", text) if "=" in text else {"": _number("--range", text, text)}
    for value in values.values():
        if not 0 < value <= 1000:
            raise ConfigError(f"--range {text}: expected metres above 0 and at most 1000")
    return values.get("", values)


def parse_numbers(option: str, text: str) -> dict[str, float]:
    """`name=number,...`."""
    values = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if not name.strip() or name.strip() in values:
            raise ConfigError(f"{option} {text}: expected name=number, each name once")
        values[name.strip()] = _number(option, text, value)
    return values


def _number(option: str, text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{option} {text}: '{value}' is not a number")
    return number


def _thresholds(args: argparse.Namespace) -> dict[str, float]:
    if args.thresholds is not None:
        return parse_numbers("--thresholds", args.thresholds)
    if args.model is not None:
        output = load_model(args.model).manifest.map
        if output is not None:
            return dict(zip(output.layers, output.thresholds, strict=True))
    return {}


def print_report(report: Report) -> None:
    """The report for people."""
    if report.detection is not None:
        found = report.detection
        title = f"mAP {found.mean_ap:.4f}   NDS {found.nds:.4f}"
        units = [f"{e}, {unit}" for e, unit in zip(ERRORS, ERROR_UNITS, strict=True)]
        columns = ("AP 0.5 m", "1 m", "2 m", "4 m", "AP", *units, "true boxes", "results")
        table = Table("class", *columns, title=title, title_justify="left")
        for name, metrics in found.classes.items():
            table.add_row(
                name,
                *(_shown(value) for value in metrics.ap.values()),
                _shown(metrics.mean_ap),
                *(_shown(metrics.errors[error]) for error in ERRORS),
                str(metrics.num_truth),
                str(metrics.num_results),
            )
        means = (_shown(found.errors[error]) for error in ERRORS)
        table.add_row("mean", "", "", "", "", _shown(found.mean_ap), *means, "", "")
        results.print(table)
    if report.map is not None:
        title = f"mIoU {_shown(report.map.mean_iou)} over observed cells, "
        title += f"{_shown(report.map.mean_iou_visible)} over those that are visible as well; "
        title += f"{report.map.observed_share:.0%} of all cells are observed"
        table = Table("layer", "IoU", "IoU visible", "threshold", title=title, title_justify="left")
        for name, layer in report.map.layers.items():
            kind = " (best)" if layer.is_best else ""
            row = (_shown(layer.iou), _shown(layer.iou_visible), f"{layer.threshold:g}{kind}")
            table.add_row(name, *row)
        results.print(table)
    for note in report.notes:
        results.print(f"note: {note}", markup=False, soft_wrap=True)


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
