"""Reading ROS 2 bags (mcap, sqlite3), and ROS 1 ones, with errors that name the cure."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from bev_runtime.errors import BagError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """One recorded message: `time_ns` is when it was recorded, `raw` its CDR bytes."""

    time_ns: int
    topic: str
    msgtype: str
    raw: bytes | memoryview


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic of a bag."""

    name: str
    msgtype: str
    count: int


CDR_ERRORS = (
    SerdeError,
    struct.error,
    ValueError,
    IndexError,
    KeyError,
    AssertionError,
    OverflowError,
    MemoryError,
)
"""What decoding hostile bytes may raise."""


class Bag:
    """An open bag; use as a context manager.

    Args:
        path: a rosbag2 folder, or a single .mcap, .db3 or .bag file.

    Raises:
        BagError: missing, not a bag, or truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise BagError(
                f"bag {path} does not exist: give a rosbag2 folder, or an .mcap, .db3 or .bag file"
            )
        if path.is_dir() and not any(path.glob("*.mcap*")) and not any(path.glob("*.db3*")):
            inside = sorted(child.name for child in path.iterdir())[:5]
            raise BagError(
                f"folder {path} holds no .mcap or .db3 file (it holds {inside or 'nothing'}): give "
                "the rosbag2 folder itself"
            )
        try:
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
        except Exception as problem:  # parsers of damaged files raise anything
            raise BagError(self._cannot_read(problem)) from None

    def _cannot_read(self, problem: Exception) -> str:
        cause = str(problem).rstrip(".") or type(problem).__name__
        sqlite = self.path.suffix == ".db3" or any(self.path.glob("*.db3"))
        tool = (
            "`sqlite3 IN.db3 .recover | sqlite3 OUT.db3`" if sqlite else "`mcap recover IN -o OUT`"
        )
        return (
            f"bag {self.path} cannot be read: {cause}. If it was truncated, as when a recording is "
            f"cut off, repair it with {tool}"
        )

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.close()

    @property
    def typestore(self) -> Typestore:
        """Decodes this bag's messages."""
        return self._reader.typestore

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0 for an empty bag."""
        return self._reader.start_time if self._reader.message_count else 0

    @property
    def end_ns(self) -> int:
        """Time of the last message; 0 for an empty bag."""
        return self._reader.end_time if self._reader.message_count else 0

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """Topics by name."""
        return {
            name: TopicInfo(name, info.msgtype or "several types", info.msgcount)
            for name, info in self._reader.topics.items()
        }

    def messages(self, topics: frozenset[str] | None = None) -> Iterator[Message]:
        """All messages of the topics (None: of every topic) in the order of recording.

        Raises:
            BagError: the bag breaks off; what came before was already yielded.
        """
        chosen = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not chosen:
            return
        ros1 = not self._reader.is2
        try:
            for connection, time_ns, raw in self._reader.messages(connections=chosen):
                data: bytes | memoryview = raw
                if ros1:
                    data = self.typestore.ros1_to_cdr(raw, connection.msgtype)
                yield Message(time_ns, connection.topic, connection.msgtype, data)
        except Exception as problem:  # parsers of damaged files raise anything
            raise BagError(self._cannot_read(problem)) from problem

    def decode(self, message: Message) -> Any:  # noqa: ANN401
        """The message as an object with the fields of its .msg definition; None if it is none."""
        try:
            return self.typestore.deserialize_cdr(message.raw, message.msgtype)
        except CDR_ERRORS:
            return None
