"""`bev-runtime robustness`: what does each lost or damaged sensor cost a model?"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from bev_runtime.backends import BACKENDS, create_backend
from bev_runtime.bags import Bag
from bev_runtime.cli.console import (
    console,
    in_range,
    make_folder,
    print_json,
    progress_bar,
    results,
)
from bev_runtime.cli.evaluate import parse_names
from bev_runtime.cli.replay import MAX_THREADS, choose_rig
from bev_runtime.errors import ConfigError, MissingExtraError
from bev_runtime.model import load_model
from bev_runtime.robustness.study import Row, Study
from bev_runtime.robustness.tables import (
    RETAINED,
    SHOWN,
    as_dict,
    columns_of,
    markdown,
    plot,
    retained,
    store,
)

SIM_SECONDS = 5.0
SIM_RATE_HZ = 4.0
SIM_STARTS_M = (60.0, 90.0, 75.0, 105.0)
MAX_SIM_BAGS = 1000
HELD_OUT_SEED = 910_000
EPILOG = """\
examples:
  bev-runtime robustness metabev_tiny --sim 6 --out table          new simulated towns
  bev-runtime robustness ./my_model --bags drive_a drive_b --store  bags with truth beside them
  bev-runtime robustness metabev_tiny --bags drive --conditions full,no_lidar,lost_cameras_2 --json

Every moment of the bags is run again under each condition, by this runtime and by a node that does
not know about lost sensors. See docs/robustness.md.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "robustness",
        help="measure what each lost or damaged sensor costs",
        description="The table of accuracies by sensor condition of a model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="model folder, or the name of a shipped model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--bags",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of bags with ground_truth.json, truth.npz or both",
    )
    source.add_argument(
        "--sim", type=int, metavar="N", help="drive N times through new simulated towns"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=HELD_OUT_SEED,
        help="of the first town and of what is drawn (default %(default)s)",
    )
    parser.add_argument(
        "--sim-dir",
        type=Path,
        help="keep the simulated bags here, and use those that are there already",
    )
    parser.add_argument("--conditions", help="comma-separated (default: all of the model)")
    parser.add_argument("--out", type=Path, help="folder for table.json, table.md and table.png")
    parser.add_argument(
        "--store", action="store_true", help="write the table into the model's manifest and README"
    )
    parser.add_argument("--dataset", help="name of the data in the manifest (default: of the bags)")
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        choices=sorted(BACKENDS),
        help="inference backend (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads for inference (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures, reports, stores."""
    in_range("--threads", args.threads, 1, MAX_THREADS)
    in_range("--seed", args.seed, 0, 1 << 31)
    if args.sim is not None:
        in_range("--sim", args.sim, 1, MAX_SIM_BAGS)
    out = make_folder(args.out, "--out") if args.out is not None else None
    model = load_model(args.model)
    chosen = parse_names("--conditions", args.conditions)
    with ExitStack() as stack:
        backend = create_backend(args.backend, model, num_threads=args.threads)
        stack.callback(backend.close)
        study = Study(model.manifest, backend, seed=args.seed, chosen=chosen)
        bar = stack.enter_context(progress_bar())
        bags = args.bags
        if bags is None:
            folder = args.sim_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bags = simulate(make_folder(folder, "--sim-dir"), args.sim, args.seed, bar)
        for path in bags:
            measure(study, path, bar)
    rows = study.rows()
    names = ", ".join(path.name for path in bags) if len(bags) <= 3 else f"{len(bags)} bags"
    if args.sim is not None:
        names = f"{args.sim} simulated drives, towns from {args.seed}"
    dataset = args.dataset or names
    about = (
        f"Measured by `bev-runtime robustness` on {dataset}: {study.num_moments} moments, model "
        f"{model.manifest.name} {model.manifest.version}, backend {args.backend}."
    )
    table = as_dict(
        rows,
        {
            "model": model.manifest.name,
            "model_version": model.manifest.version,
            "backend": args.backend,
            "dataset": dataset,
            "seed": args.seed,
            "moments": study.num_moments,
            "notes": study.notes,
        },
    )
    if out is not None:
        write(out, rows, table, about)
    if args.store:
        store(model.folder, rows, dataset, about)
        console.print(f"stored in {model.folder}", soft_wrap=True)
    if args.json:
        print_json(table)
    else:
        print_table(rows, study.notes)
    return 0


def measure(study: Study, path: Path, bar: Progress) -> None:
    """Adds one bag to the study."""
    with Bag(path) as bag:
        rig = choose_rig(bag, None)
        task = bar.add_task(escape(path.name), total=max(bag.end_ns - bag.start_ns, 1))
        start_ns = bag.start_ns
        study.add_bag(path, bag, rig, lambda now_ns: bar.update(task, completed=now_ns - start_ns))


def simulate(folder: Path, count: int, seed: int, bar: Progress) -> list[Path]:
    """Records drives through `count` towns, with one rig after the other.

    Raises:
        MissingExtraError: the extra `sim` is not installed.
    """
    try:
        from bev_runtime.demo_world import BagOptions
        from bev_runtime.sim.bag import write_bag
        from bev_runtime.sim.rigs import RIGS
        from bev_runtime.sim.town import make_town
    except ImportError as problem:
        raise MissingExtraError(
            f"--sim needs the simulator ({problem}): install the extra, pip install "
            "'bev-runtime[sim]', or give --bags"
        ) from None

    paths = []
    for index in range(count):
        name = list(RIGS)[index % len(RIGS)]
        path = folder / f"town_{seed + index}_{name}"
        paths.append(path)
        if (path / "metadata.yaml").is_file():
            continue
        if path.exists():
            raise ConfigError(
                f"{path} is there but was not written whole: remove it, or give another --sim-dir"
            )
        task = bar.add_task(f"driving through town {seed + index}", total=None)
        options = BagOptions(
            duration_s=SIM_SECONDS,
            rate_hz=SIM_RATE_HZ,
            start_x=SIM_STARTS_M[index % len(SIM_STARTS_M)],
            seed=seed + index,
        )
        write_bag(
            path,
            RIGS[name](),
            make_town(seed + index),
            options,
            progress=lambda done, total, task=task: bar.update(  # type: ignore[misc]
                task, completed=done, total=total
            ),
        )
    return paths


def write(out: Path, rows: list[Row], table: dict[str, object], about: str) -> None:
    """Writes the table as JSON, Markdown and, where matplotlib is installed, as a picture."""
    (out / "table.json").write_text(json.dumps(table, indent=1, default=str), encoding="utf-8")
    (out / "table.md").write_text(markdown(rows, about), encoding="utf-8")
    written = ["table.json", "table.md"]
    try:
        plot(rows, out / "table.png")
        written.append("table.png")
    except MissingExtraError as problem:
        console.print(f"no table.png: {problem}", soft_wrap=True, markup=False)
    console.print(f"wrote {', '.join(written)} in {out}", soft_wrap=True)


def print_table(rows: list[Row], notes: list[str]) -> None:
    """The table for people."""
    columns = columns_of(rows)
    kept = [name for name in RETAINED if name in columns]
    table = Table(
        "condition",
        *(SHOWN[name] for name in columns),
        *(f"{SHOWN[name]} kept" for name in kept),
        title="this runtime / naive node",
        title_justify="left",
    )
    full = next((row for row in rows if row.condition == "full"), None)
    for row in rows:
        shown = (
            " / ".join(f"{f[name]:.3f}" if name in f else "-" for f in (row.figures, row.naive))
            for name in columns
        )
        shares = (
            " / ".join(retained(f, full, name) for f in (row.figures, row.naive)) for name in kept
        )
        table.add_row(row.condition, *shown, *shares)
    results.print(table)
    for note in notes:
        results.print(f"note: {note}", markup=False, soft_wrap=True)
