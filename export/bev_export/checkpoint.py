"""Published checkpoints: read without running their code, compared key by key, loaded."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from bev_export.package import ExportError

MAX_LISTED = 8
"""Keys that a message lists of each kind."""
TRAINER_MODULES = (
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "lightning_utilities.",
    "omegaconf.",
    "yacs.",
    "fvcore.",
    "argparse.",
    "pathlib.",
    "typing.",
    "collections.",
    "torchmetrics.",
    "numpy.",
)
"""Where the types come from that training frameworks leave in a file beside the weights. They are
not imported: an inert object stands in for each.
"""
PLAIN_TYPES = {
    f"builtins.{name}"
    for name in ("bool", "bytes", "dict", "float", "int", "list", "object", "set", "str", "tuple")
}
"""Named by settings that say which type a value has."""
Weights = dict[str, torch.Tensor]
_UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(UnpicklingError, OSError),
)


@dataclass(frozen=True)
class Packaging:
    """How a project's checkpoint files hold the state_dict.

    Attributes:
        wrapper: the key of the outer dictionary, or None; a file that holds the state_dict itself
            is accepted too.
        prefix: what every key starts with; keys without it are accepted too.
        extra_keys: keys, without the prefix, that only training needs; dropped.
        computed: keys that follow from the configuration (grid sizes, frustum). A file may lack
            them; those that it has must say what the configuration says.
    """

    wrapper: str | None = None
    prefix: str = ""
    extra_keys: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()


class Inert:
    """Stands in for a type of a training framework: its objects become plain dictionaries.

    The reader of weights fills dictionaries, ordered ones also with an object's state; what is in
    them is never looked at.
    """

    def __new__(cls, *_: object, **__: object) -> OrderedDict[str, object]:  # type: ignore[misc]
        """Takes whatever the real type would, and forgets it."""
        return OrderedDict()


def load_checkpoint(module: nn.Module, path: Path, packaging: Packaging) -> None:
    """Loads a file's weights into a module, all of them and nothing else.

    Args:
        module: gets the weights and is left in `eval`.
        path: the checkpoint file.
        packaging: how this project's files hold the weights.

    Raises:
        ExportError: the file is no checkpoint, or keys, shapes or the configuration differ; the
            message lists what differs.
    """
    load_state(module, read_state(path, packaging), packaging, what=str(path))


def read_state(path: Path, packaging: Packaging) -> Weights:
    """Reads the state_dict of a file: no wrapper, no prefix, no keys of the training.

    Raises:
        ExportError: the file cannot be read as weights.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise ExportError(f"{path} holds a {type(content).__name__}, expected a state_dict")
    state: Any = content
    if packaging.wrapper is not None and packaging.wrapper in content:
        state = content[packaging.wrapper]
    tensors = isinstance(state, Mapping) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    )
    if not tensors or not state:
        where = "" if packaging.wrapper is None else f", perhaps under '{packaging.wrapper}'"
        raise ExportError(
            f"{path} holds the keys {_some([str(key) for key in content])}, expected the tensors "
            f"of a state_dict by name{where}: is it a checkpoint of another project?"
        )
    # Files of parallel training carry one prefix more.
    stripped = {
        key.removeprefix("module.").removeprefix(packaging.prefix): value
        for key, value in state.items()
    }
    return {key: value for key, value in stripped.items() if key not in packaging.extra_keys}


def load_state(
    module: nn.Module, state: Mapping[str, torch.Tensor], packaging: Packaging, *, what: str
) -> None:
    """Loads weights by name into a module, which is left in `eval`; see `load_checkpoint`.

    Args:
        module: gets the weights.
        state: tensors by key.
        packaging: says which keys are computed.
        what: names the source in messages.

    Raises:
        ExportError: keys, shapes, types or computed values differ.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state and key not in packaging.computed]
    unknown = [key for key in state if key not in expected]
    shared = [key for key in expected if key in state]
    shapes = [
        f"{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}"
        for key in shared
        if state[key].shape != expected[key].shape
    ]
    problems = [
        f"{len(items)} {kind}: {_some(items)}"
        for kind, items in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", shapes),
        )
        if items
    ]
    if problems:
        raise ExportError(
            f"{what} does not fit {type(module).__name__} ({len(expected)} keys): "
            f"{'; '.join(problems)}. Is it a checkpoint of this family, in its published "
            "configuration?"
        )
    _check_values(module, state, packaging.computed, what)
    weights = {key: state[key] for key in shared if key not in packaging.computed}
    module.load_state_dict(weights, strict=False)
    module.eval()


def _check_values(
    module: nn.Module, state: Mapping[str, torch.Tensor], computed: Sequence[str], what: str
) -> None:
    """Refuses computed values that differ, and weights that are not numbers."""
    expected = module.state_dict()
    for key in computed:
        if key not in state or key not in expected:
            continue
        found, wanted = state[key].double(), expected[key].double()
        if not torch.allclose(found, wanted, rtol=1e-5, atol=1e-5):
            raise ExportError(
                f"{what}: '{key}' is {_values(found)}, expected {_values(wanted)}: the checkpoint "
                "was trained for another grid, image size or depth range than this family's "
                "published one"
            )
    bad = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise ExportError(
            f"{what}: {_some(bad)} hold NaN or infinity, expected numbers: the training diverged "
            "or the file is damaged"
        )


def _read(path: Path) -> object:
    """What a file of `torch.save` holds, where types of training frameworks become inert."""
    if not path.is_file():
        raise ExportError(f"no checkpoint at {path}: give the file that the project publishes")
    stand_ins = [(type("Inert", (Inert,), {}), name) for name in _foreign_types(path)]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of odd protocols, before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as problem:
        raise ExportError(
            f"{path} cannot be read as weights ({_reason(problem)}), expected a file of torch.save "
            "that holds tensors"
        ) from problem


def _reason(problem: Exception) -> str:
    """The line of torch's message that says what is wrong; the first ones advise to load without
    its protection.
    """
    advice = ("Weights only load failed", "Please file an issue", "Check the documentation")
    lines = [line.strip() for line in str(problem).splitlines()]
    said = [line for line in lines if line and not line.startswith(advice)]
    return said[0] if said else type(problem).__name__


def _foreign_types(path: Path) -> list[str]:
    """Names of the types in a file that are neither tensors nor plain Python.

    Raises:
        ExportError: one of them comes from elsewhere than a training framework.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, EOFError, UnpicklingError, OSError):
        return []  # not the present format: torch.load says what is wrong, or reads it
    refused = [
        name for name in names if name not in PLAIN_TYPES and not name.startswith(TRAINER_MODULES)
    ]
    if refused:
        raise ExportError(
            f"{path} refers to {_some(sorted(refused))}, expected tensors and settings only: it "
            "could run code when loaded, so it is refused. Get the file from where you trust it, "
            "or save its state_dict alone"
        )
    return sorted(names)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more


def _values(tensor: torch.Tensor) -> str:
    flat = tensor.reshape(-1)
    some = ", ".join(f"{value:g}" for value in flat[:4].tolist())
    return f"[{some}{', ...' if flat.numel() > 4 else ''}]"
