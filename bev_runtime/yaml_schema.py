"""Reading YAML files into pydantic schemas, with errors that a person can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from bev_runtime.errors import BevRuntimeError

MAX_BYTES = 1 << 20
MAX_DEPTH_HINT = "expected plain mappings, lists, numbers and text"

Schema = TypeVar("Schema", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a small file cannot expand into a huge one) and double keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses aliases, composes everything else."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (`*name`) are not allowed, write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice, of which plain YAML keeps the last in silence."""
        keys = [key.value for key, _ in node.value]
        doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
        if doubled:
            where = f"line {node.start_mark.line + 1}"
            raise yaml.YAMLError(f"keys {doubled} stand twice in the mapping at {where}")
        return super().construct_mapping(node, deep)


def parse_yaml(
    text: bytes, schema: type[Schema], what: str, error: type[BevRuntimeError]
) -> Schema:
    """Validates YAML bytes against a schema.

    Args:
        text: the file's bytes, at most 1 MiB.
        schema: the pydantic model.
        what: how messages name the file.
        error: the exception type to raise.
    """
    if len(text) > MAX_BYTES:
        raise error(f"{what} has {len(text)} bytes, expected at most {MAX_BYTES}")
    try:
        data = yaml.load(text, Loader=_StrictLoader)
        plain = json.dumps(data, allow_nan=False)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"{what} is not plain YAML: {problem}") from None
    except (TypeError, ValueError, LookupError, AttributeError) as problem:
        raise error(
            f"{what} holds a value that is not plain data ({problem}), {MAX_DEPTH_HINT}"
        ) from None
    if not isinstance(data, dict):
        raise error(f"{what} holds {type(data).__name__}, expected a mapping of keys to values")
    try:
        return schema.model_validate_json(plain)
    except ValidationError as problem:
        raise error(f"{what} does not fit its schema:\n{explain(problem)}") from None


def read_yaml(path: Path, schema: type[Schema], what: str, error: type[BevRuntimeError]) -> Schema:
    """Reads and validates a YAML file; see `parse_yaml`."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise error(f"{what} cannot be read: {problem}") from None
    return parse_yaml(text, schema, what, error)


def explain(problem: ValidationError) -> str:
    """One line per mistake: where, what is wrong, the value."""
    lines = []
    for item in problem.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "the whole file"
        value = json.dumps(item["input"], default=str)
        shown = value if len(value) <= 80 else value[:77] + "..."
        message = (
            "unknown key, check its spelling" if item["type"] == "extra_forbidden" else item["msg"]
        )
        lines.append(f"  {where}: {message} (got {shown})")
    return "\n".join(lines)
