"""The checks of `verify`: first that the sensors matter at all, then that the numbers agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from bev_export.verify.capture import Case, KeepingBackend, run_scene
from bev_export.verify.compare import Arrays, Difference, Tolerance, measure, measure_all
from bev_export.verify.plain import outputs_of, pool_exactly, run_plainly
from bev_export.verify.scenes import LAYOUTS, SceneSpec
from bev_runtime.backends.graph_cut import find_pool
from bev_runtime.bevpool import BevPoolTable, bev_pool
from bev_runtime.model import ModelPackage

if TYPE_CHECKING:
    from bev_export.verify.reference import Reference

INPUT_SETS = 2
SHIFT_M = 0.5
POOL_TOLERANCE = Tolerance(1e-4, 1e-5)
"""A cell sums some hundred products in float32."""
MAP = "decoded map"


@dataclass(frozen=True, slots=True)
class Options:
    """How strictly to check.

    `tolerance`: of every tensor that `by_tensor` does not name. `min_share`: of its deviation that
    a tensor must move by (root mean square) when a sensor changes. `repeats`: runs on all threads
    that must agree to the bit.
    """

    tolerance: Tolerance
    by_tensor: Mapping[str, Tolerance] = field(default_factory=dict)
    min_share: float = 0.02
    repeats: int = 20

    def of(self, tensor: str) -> Tolerance:
        """The tolerance of a tensor."""
        return self.by_tensor.get(tensor, self.tolerance)


@dataclass(frozen=True, slots=True)
class Check:
    """One check's result. `passed` None: it was not made, and `text` says why. `diverges`: the
    first tensor that is not what it should be.
    """

    name: str
    passed: bool | None
    text: str
    tensors: tuple[Difference, ...] = ()
    diverges: str | None = None


def run_cases(model: ModelPackage, backend: KeepingBackend) -> list[Case]:
    """Every rig with every set of inputs."""
    return [
        run_scene(model, backend, SceneSpec(layout, seed))
        for layout in range(len(LAYOUTS))
        for seed in range(INPUT_SETS)
    ]


def check_sensitivity(
    model: ModelPackage, backend: KeepingBackend, options: Options
) -> Iterator[Check]:
    """Other pictures, cameras mounted elsewhere, a moved cloud: the outputs must move.

    Cameras are judged without the cloud: a fusing model may rightly trust its LiDAR more.
    """
    manifest = model.manifest
    alone = SceneSpec(0, 0, cameras_only=manifest.lidar is not None)
    changes: list[tuple[str, SceneSpec, SceneSpec]] = []
    if manifest.cameras is not None:
        changes.append(("image sensitivity", alone, replace(alone, other_images=True)))
        changes.append(("calibration sensitivity", alone, replace(alone, camera_shift=SHIFT_M)))
    if manifest.lidar is not None:
        both = SceneSpec(0, 0)
        changes.append(("LiDAR sensitivity", both, replace(both, cloud_shift=SHIFT_M)))
    for name, before, after in changes:
        moved: dict[str, list[float]] = {}
        for layout in range(len(LAYOUTS)):
            was, now = (
                _results(run_scene(model, backend, replace(spec, layout=layout)), model)
                for spec in (before, after)
            )
            for found in measure_all(now, was):
                moved.setdefault(found.tensor, []).append(found.rms)
        least = {tensor: min(shares) for tensor, shares in moved.items()}
        # A volume that is fixed to a camera moves with it: then only the map on the ground moves.
        must_all = name == "image sensitivity"
        weakest = (min if must_all else max)(least, key=lambda tensor: least[tensor])
        passed = least[weakest] >= options.min_share
        what = ", ".join(f"{tensor} by {share:.3g}" for tensor, share in least.items())
        yield Check(
            name,
            passed,
            f"outputs move by shares of their deviation: {what}; expected "
            f"{'every one' if must_all else 'one'} by {options.min_share:g} or more",
            diverges=None if passed else weakest,
        )


def check_pooling(model: ModelPackage, cases: Sequence[Case]) -> Iterator[Check]:
    """The native kernel beside the float64 oracle, on the features of each case."""
    for name in [stage.name for stage in model.manifest.stages]:
        pool = find_pool(model.stage_graph(name))
        if pool is None:
            continue
        found = []
        for case in cases:
            call = case.call
            if call.table is None or call.weights is None:
                continue
            made = run_plainly(model, replace(call, stages=(name,)))[name]
            tensors = {**call.inputs, **made}
            exact = pool_exactly(pool, tensors, call.table, call.weights)
            weights = np.ascontiguousarray(call.weights.reshape(1, 1, 1, -1))
            depth = weights if pool.constant_depth else tensors[pool.depth]
            out = np.empty(exact.shape, np.float32)
            bev_pool(depth, tensors[pool.feat], BevPoolTable.from_arrays(*call.table), out)
            found.append(measure(pool.output, out, exact))
        wrong = [item for item in found if not item.within(POOL_TOLERANCE)]
        yield Check(
            f"{name}: BevPool beside float64",
            not wrong,
            _worst(found),
            tuple(found),
            diverges=wrong[0].tensor if wrong else None,
        )


def check_repeats(
    backend: KeepingBackend, cases: Sequence[Case], options: Options
) -> Iterator[Check]:
    """The same inference again and again on all threads, equal to the bit."""
    case = cases[0]
    call, table = case.call, _table(case)
    first: dict[str, bytes] = {}
    differs: list[str] = []
    for _ in range(options.repeats):
        made = backend.infer(call.stages, call.inputs, table)
        for name in call.outputs:
            data = made[name].tobytes()
            if first.setdefault(name, data) != data and name not in differs:
                differs.append(name)
    threads = backend.num_threads
    yield Check(
        f"{options.repeats} repeats on {threads} threads",
        not differs,
        f"differ: {', '.join(differs)}" if differs else "equal to the bit",
        diverges=differs[0] if differs else None,
    )


def check_serving(
    model: ModelPackage, cases: Sequence[Case], options: Options, threads: int
) -> Iterator[Check]:
    """What the runtime made, beside the graphs as they are written with the oracle's pooling."""
    for case in cases:
        call = case.call
        plain = outputs_of(model, run_plainly(model, call))
        found = measure_all(call.outputs, plain)
        wrong = [item for item in found if not item.within(options.of(item.tensor))]
        diverges = None
        if wrong:
            exact = run_plainly(model, call, inside=True)
            served = run_plainly(model, call, inside=True, threads=max(threads, 2))
            diverges = first_divergence(served, exact, options) or wrong[0].tensor
        yield Check(
            f"serving beside plain ONNX, {case.spec.name}",
            not wrong,
            _worst(found),
            tuple(found),
            diverges,
        )


def check_torch(
    model: ModelPackage, reference: Reference, cases: Sequence[Case], options: Options
) -> Iterator[Check]:
    """What the runtime made, beside the network in torch with the checkpoint's weights."""
    for case in cases:
        call = case.call
        name = f"serving beside torch, {case.spec.name}"
        try:
            expected = reference.run(call)
        except (KeyError, RuntimeError, TypeError) as problem:
            text = f"torch cannot take the package's tensors: {str(problem).splitlines()[0]}"
            yield Check(name, False, text, diverges=call.stages[0])
            continue
        found = measure_all(call.outputs, expected)
        wrong = [item for item in found if not item.within(options.of(item.tensor))]
        diverges = None
        if wrong:
            made = run_plainly(model, call, inside=True)
            right = run_plainly(reference.package, call, inside=True)
            diverges = first_divergence(made, right, options) or wrong[0].tensor
        yield Check(name, not wrong, _worst(found), tuple(found), diverges)


def first_divergence(
    found: Mapping[str, Arrays], expected: Mapping[str, Arrays], options: Options
) -> str | None:
    """The first tensor, in the order of computation, that is not what it should be.

    Args:
        found: all tensors by stage, in order.
        expected: the same of a graph that is right; tensors that it lacks are passed over.
        options: tolerances.

    Returns:
        `stage: tensor: by how much`, None if none is off.
    """
    for stage, tensors in found.items():
        for name, array in tensors.items():
            other = expected.get(stage, {}).get(name)
            if other is None or array.dtype.kind != "f":
                continue
            difference = measure(name, array, other)
            if not difference.within(options.of(name)):
                return f"{stage}: {difference}"
    return None


def _results(case: Case, model: ModelPackage) -> Arrays:
    """What leaves the network: outputs that no later stage reads, and the map made of them."""
    stages = model.manifest.stages
    read = {tensor.name for stage in stages for tensor in stage.inputs}
    out = {name: array for name, array in case.call.outputs.items() if name not in read}
    return out if case.score is None else {**out, MAP: case.score}


def _table(case: Case) -> BevPoolTable | None:
    call = case.call
    if call.table is None or call.weights is None:
        return None
    table = BevPoolTable(len(call.weights), len(call.table[3]))
    table.fill(call.weights, *call.table[:3])
    table.bounds = None
    return table


def _worst(found: Sequence[Difference]) -> str:
    """The largest of each tensor over all cases, in words."""
    worst: dict[str, Difference] = {}
    for item in found:
        if item.tensor not in worst or item.worst > worst[item.tensor].worst:
            worst[item.tensor] = item
    return "; ".join(map(str, worst.values())) or "nothing to compare"
