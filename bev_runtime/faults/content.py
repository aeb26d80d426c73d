"""Faults in the content of messages: from CDR bytes to CDR bytes."""

from __future__ import annotations

import logging
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from rosbags.typesys.store import Typestore

from bev_runtime.bags import CDR_ERRORS, Message
from bev_runtime.errors import SampleRejected
from bev_runtime.faults import clouds, pictures
from bev_runtime.faults.grammar import KINDS, Fault
from bev_runtime.intake import COMPRESSED, CONVERTERS, IMAGE, POINTS
from bev_runtime.preprocess import decode_rgb
from bev_runtime.types import CameraFrame

log = logging.getLogger(__name__)


class ContentFault:
    """Edits what messages hold.

    Args:
        fault: of a kind that needs clouds or pictures.
        seed: of what stays the same over time, such as dirt.
        rng: of what is drawn anew for each message.
        typestore: reads and writes the messages.
    """

    def __init__(
        self, fault: Fault, seed: int, rng: np.random.Generator, typestore: Typestore
    ) -> None:
        self._fault, self._seed, self._rng, self._typestore = fault, seed, rng, typestore
        self._dirt: dict[tuple[str, tuple[int, int]], pictures.Bytes] = {}
        self._told = False

    def apply(self, message: Message) -> Message | None:
        """The message with its content edited; None if it holds nothing that the fault can edit.

        The first message of the latter kind is logged.
        """
        wanted = (POINTS,) if KINDS[self._fault.kind].needs == "cloud" else (IMAGE, COMPRESSED)
        try:
            if message.msgtype not in wanted:
                raise SampleRejected("wrong_type", f"it is {message.msgtype}")
            try:
                decoded = self._typestore.deserialize_cdr(memoryview(message.raw), message.msgtype)
            except CDR_ERRORS as problem:
                raise SampleRejected("bad_cdr", f"it cannot be read: {problem}") from None
            edited = self._edit(message, decoded)
        except SampleRejected as problem:
            if not self._told:
                log.warning(
                    "fault '%s' leaves a message of %s as it is: %s (further ones are not named)",
                    self._fault.spec,
                    message.topic,
                    problem,
                )
            self._told = True
            return None
        return replace(message, raw=self._typestore.serialize_cdr(edited, message.msgtype))

    def _edit(self, message: Message, decoded: Any) -> Any:  # noqa: ANN401
        kind, given = self._fault.kind, self._fault.parameters
        if kind == "sector":
            return clouds.keep_sector(decoded, given["deg"], given["yaw"])
        if kind == "beams":
            return clouds.keep_beams(decoded, round(given["keep"]))
        if kind == "points":
            return clouds.drop_points(decoded, given["p"], self._rng)
        frame = CONVERTERS[message.msgtype](message.topic, 1, decoded)
        assert isinstance(frame, CameraFrame)
        rgb = self._painted(message.topic, frame)
        if message.msgtype == IMAGE:
            return pictures.as_raw_message(decoded, rgb)
        return pictures.as_compressed_message(decoded, rgb)

    def _painted(self, topic: str, frame: CameraFrame) -> pictures.Bytes:
        size = frame.image.width, frame.image.height
        if self._fault.kind == "noise":
            return pictures.noise_picture(size, self._rng)
        if self._fault.kind == "black":
            return pictures.black_picture(size)
        key = (topic, size)
        if key not in self._dirt:
            rng = np.random.default_rng([self._seed, zlib.crc32(topic.encode())])
            self._dirt[key] = pictures.dirt(size, self._fault.parameters["share"], rng)
        return pictures.soil(decode_rgb(frame), self._dirt[key])
