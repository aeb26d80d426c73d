"""Compiled engines on disk: found by what they were built from, checked before anything reads them.

An engine is native code for one GPU, so a file is used only if it is the owner's, nobody else can
write or read it, its hash fits, and every part of its key is what is asked for. One file holds all:
a line that names the format, a line with the hash of all that follows, a line of JSON (key,
tensors, layers), then the engine's bytes; so one rename makes it visible, whole. The hash finds
damage and careless edits; who can write as the owner can forge it, and file permissions are what
stops the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bev_runtime.errors import BackendError

MAGIC = b"bev-runtime-engine-1\n"
HASH_BYTES = 65
"""A sha256 in hexadecimal and the end of its line."""
MAX_HEADER_BYTES = 8 << 20
SUFFIX = ".engine"
NOT_BUILT = "not built yet"
DEBRIS_S = 86400.0
"""Age at which what an interrupted build left behind is removed."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine was built from; any difference makes it stale.

    `onnx_sha256`: of the graph as the builder reads it. `manifest_sha256`: of the whole manifest.
    `library`: builder and version, `tensorrt_rtx 1.7.1`. `gpu`: name of the device, or `any`.
    `sm`: compute capabilities, `89` or `75,80,86`. `precision`: element types in the graph.
    `plugin_sha256`: of the plugin library, empty without one. `profiles`: smallest, best and
    largest shape of each input.
    """

    onnx_sha256: str
    manifest_sha256: str
    library: str
    gpu: str
    sm: str
    precision: str
    plugin_sha256: str
    profiles: str

    def changes(self, other: Mapping[str, Any]) -> list[str]:
        """One sentence for each part that differs in `other`, a key that was read from a file."""
        found = []
        for name, wanted in asdict(self).items():
            held = other.get(name)
            if held != wanted:
                found.append(f"{name} was {_short(held)}, is {_short(wanted)}")
        return found


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine whose hash was checked. `header`: key, tensors, layers, build_s. `sha256`: of
    header and engine.
    """

    path: Path
    data: bytes
    header: Mapping[str, Any]
    sha256: str


@dataclass(frozen=True, slots=True)
class Miss:
    """Why the cache has no engine to give; `reason` is a sentence for the log."""

    reason: str


class EngineCache:
    """A folder of engines that only its owner can enter.

    Args:
        folder: made with mode 0700 if absent; `default_folder()` when None.

    Raises:
        BackendError: it is a link, belongs to another user, is open to others or cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else default_folder()
        try:
            self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            status = os.lstat(self.folder)
        except OSError as problem:
            raise BackendError(
                f"engine cache {self.folder} cannot be used: {problem.strerror or problem}; give "
                "another folder with --cache"
            ) from None
        wrong = _not_private(status)
        if not stat.S_ISDIR(status.st_mode):
            wrong = "is not a folder"
        if wrong:
            raise BackendError(
                f"engine cache {self.folder} {wrong}, expected a folder of user {os.geteuid()} "
                f"with mode 0700: engines are native code. Run 'chmod 700 {self.folder}' if it is "
                "yours, or give another folder with --cache"
            )
        self._remove_debris()

    def path(self, slot: str) -> Path:
        """Where the engine of a slot lies: model, part, backend and SM, not the rest of the key."""
        return self.folder / f"{slot}{SUFFIX}"

    def load(self, slot: str, key: EngineKey) -> Engine | Miss:
        """The engine of a slot if it may be used, or why not."""
        path = self.path(slot)
        if not os.path.lexists(path):
            return Miss(NOT_BUILT)
        try:
            engine = read_engine(path)
        except BackendError as problem:
            return Miss(str(problem))
        changed = key.changes(engine.header["key"])
        return Miss("; ".join(changed)) if changed else engine

    def store(self, slot: str, key: EngineKey, data: bytes, facts: Mapping[str, Any]) -> Engine:
        """Writes an engine so that readers see the old file or the new one, never a part.

        Args:
            slot: see `path`.
            key: what it was built from.
            data: the serialised engine.
            facts: what else the file says of itself, JSON.

        Raises:
            BackendError: the disk is full or the folder is gone.
        """
        header = {**facts, "key": asdict(key), "bytes": len(data)}
        path = self.path(slot)
        line = json.dumps(header, sort_keys=True).encode() + b"\n"
        if len(line) > MAX_HEADER_BYTES:
            raise BackendError(
                f"{path}: the engine's description has {len(line)} bytes, expected at most "
                f"{MAX_HEADER_BYTES}: the graph has too many layers to be described"
            )
        digest = hashlib.sha256(line)
        digest.update(data)
        try:
            # mkstemp: a fresh file with mode 0600 that no other process can have prepared.
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".engine-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(MAGIC + digest.hexdigest().encode() + b"\n" + line)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink()
                raise
        except OSError as problem:
            raise BackendError(
                f"{path} cannot be written: {problem.strerror or problem}; free space or give "
                "another folder with --cache"
            ) from None
        return Engine(path, data, header, digest.hexdigest())

    def _remove_debris(self) -> None:
        """Removes old temporary files: a process that was killed could not."""
        oldest = time.time() - DEBRIS_S
        for path in (*self.folder.glob(".build-*"), *self.folder.glob(".engine-*")):
            try:
                if path.lstat().st_mtime > oldest:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError:
                continue  # another process was faster, or it does not matter today


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/bev_runtime/engines`, below `~/.cache` where that is not set.

    Raises:
        BackendError: this user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        base = base or str(Path.home() / ".cache")
    except RuntimeError:
        raise BackendError(
            f"user {os.geteuid()} has no home folder to keep engines in, expected HOME or "
            "XDG_CACHE_HOME to be set: set one, or give a folder with --cache"
        ) from None
    return Path(base) / "bev_runtime" / "engines"


def read_engine(path: Path) -> Engine:
    """Reads an engine file and checks all that can be checked without its key.

    Raises:
        BackendError: not a private file of this user, not an engine file, cut short, or its bytes
            are not those that were written.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as problem:
        raise BackendError(
            f"{path} cannot be opened: {problem.strerror or problem}; expected an engine file, "
            "not a link"
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BackendError(f"{path} is not a regular file, expected an engine file")
        wrong = _not_private(status)
        if wrong:
            raise BackendError(
                f"{path} {wrong}, expected a file of user {os.geteuid()} with mode 0600: an engine "
                "is native code and others may have changed it; delete it and build again"
            )
        if file.read(len(MAGIC)) != MAGIC:
            raise BackendError(
                f"{path} is not an engine of this runtime, expected the first line "
                f"'{MAGIC.decode().strip()}': build it with 'bev-runtime build'"
            )
        expected = file.read(HASH_BYTES)
        line = file.readline(MAX_HEADER_BYTES)
        data = file.read()
    digest = hashlib.sha256(line)
    digest.update(data)
    found = digest.hexdigest()
    if found.encode() + b"\n" != expected:
        wanted = expected.decode(errors="replace").strip()
        raise BackendError(
            f"{path} is damaged or was changed: it holds {len(line) + len(data)} bytes with sha256 "
            f"{_short(found)}, expected {_short(wanted)}; build it again"
        )
    return Engine(path, data, _parse_header(path, line), found)


def _parse_header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        complete = isinstance(header["bytes"], int) and set(header["key"]) == {
            item.name for item in fields(EngineKey)
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise BackendError(
            f"{path}: its third line does not describe an engine, expected JSON with key and "
            "bytes: the file is of another version of this runtime; build it again"
        )
    assert isinstance(header, dict)
    return header


def _not_private(status: os.stat_result) -> str:
    """What is wrong with owner or mode, empty if nothing is."""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}"
    if status.st_mode & 0o077:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}"
    return ""


def _short(value: object) -> str:
    """Enough of a hash to compare by eye."""
    text = str(value)
    is_hash = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return f"'{text[:12]}...'" if is_hash else f"'{text}'"
