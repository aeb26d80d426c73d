"""Model packages: a folder with `manifest.yaml` and ONNX files, loaded so that a bad one is refused
before it can do harm.

Every file is opened once, below the package's folder, without following a symlink. Its hash is
checked before any parser sees a byte, and the bytes that were hashed are the bytes that are parsed:
they are kept, the file is not read again.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import onnx

from bev_runtime.errors import ModelError
from bev_runtime.manifest import Manifest
from bev_runtime.onnx_guard import check_stage
from bev_runtime.yaml_schema import MAX_BYTES, parse_yaml

MANIFEST = "manifest.yaml"
SHIPPED = Path(__file__).parent / "models"
MAX_STAGE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model package whose every byte was checked.

    `folder`: where it came from, for messages; nothing is read from it after the load.
    """

    folder: Path
    manifest: Manifest
    _stages: dict[str, bytes] = field(repr=False)

    def stage_bytes(self, name: str) -> bytes:
        """The ONNX bytes of a stage, those that were hashed and checked at load.

        Raises:
            ModelError: the package has no such stage.
        """
        if name not in self._stages:
            raise ModelError(
                f"model '{self.manifest.name}' has no stage '{name}', it has: "
                f"{', '.join(self._stages)}"
            )
        return self._stages[name]

    def stage_graph(self, name: str) -> onnx.ModelProto:
        """A stage as a fresh ModelProto that the caller may edit, without local functions that
        stand in for our operators.
        """
        graph = onnx.load_model_from_string(self.stage_bytes(name))
        del graph.functions[:]
        return graph


def shipped_models() -> list[str]:
    """Names of the packages that come with the runtime."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))


def load_model(ref: str | Path) -> ModelPackage:
    """Loads and checks a model package.

    Args:
        ref: a folder, or the name of a package that comes with the runtime.

    Raises:
        ModelError: unknown name, incomplete or unsafe package, wrong hash, or a graph that is not
            what the manifest says.
    """
    folder = _find(ref)
    text = _read_inside(folder, MANIFEST, MAX_BYTES)
    manifest = parse_yaml(text, Manifest, f"{folder / MANIFEST}", ModelError)
    stages: dict[str, bytes] = {}
    for stage in manifest.stages:
        data = _read_inside(folder, stage.file, MAX_STAGE_BYTES)
        found = hashlib.sha256(data).hexdigest()
        if found != stage.sha256:
            raise ModelError(
                f"{folder / stage.file} has sha256 {found}, but {MANIFEST} says {stage.sha256}: "
                "the file was changed or damaged. "
                "Get the package again from where you trust it; if you changed the file yourself, "
                "export the package again"
            )
        check_stage(data, stage, what=f"{folder / stage.file}")
        stages[stage.name] = data
    return ModelPackage(folder, manifest, stages)


def _find(ref: str | Path) -> Path:
    folder = Path(ref)
    if folder.is_dir():
        return folder
    if (
        isinstance(ref, str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", ref)
        and (SHIPPED / ref / MANIFEST).is_file()
    ):
        return SHIPPED / ref
    shipped = ", ".join(shipped_models()) or "none"
    if (folder.parent / MANIFEST).is_file() and folder.exists():
        raise ModelError(
            f"model '{ref}' is a file, expected the folder that holds {MANIFEST}: give "
            f"'{folder.parent}'"
        )
    kind = "is a file" if folder.exists() else "does not exist"
    raise ModelError(
        f"model '{ref}': there is no such folder (it {kind}) and no shipped model of that name; "
        f"shipped: {shipped}"
    )


def _read_inside(folder: Path, relative: str, limit: int) -> bytes:
    """Reads a regular file below a folder, following no symlink on the way, at most `limit`
    bytes.
    """
    where = folder / relative
    parts = PurePosixPath(relative).parts
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for index, part in enumerate(parts):
            if stat.S_ISLNK(os.stat(part, dir_fd=descriptor, follow_symlinks=False).st_mode):
                link = folder.joinpath(*parts[: index + 1])
                raise ModelError(
                    f"{link} is a symlink: a model package holds plain files only, copy the file "
                    "into the package"
                )
            # O_NONBLOCK: opening a FIFO must not wait for a writer; O_NOFOLLOW: the check above
            # cannot be raced.
            kind = os.O_DIRECTORY if index < len(parts) - 1 else os.O_NONBLOCK
            opened = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = opened
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{where} is not a regular file, expected a file of the package")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(limit + 1) if status.st_size <= limit else b""
        if status.st_size > limit or len(data) > limit:
            raise ModelError(
                f"{where} has {status.st_size} bytes, expected at most {limit}: this is not a "
                "model package for this runtime"
            )
        return data
    except FileNotFoundError:
        raise ModelError(
            f"{where} is missing: a model package holds {MANIFEST} and every file that it names"
        ) from None
    except OSError as problem:
        raise ModelError(f"{where} cannot be read: {problem.strerror or problem}") from None
    finally:
        os.close(descriptor)
