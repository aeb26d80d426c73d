"""Says each problem once, in one line for all sensors that share it, and once when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

log = logging.getLogger(__name__)


class Announcer:
    """Logs the problems of a running node.

    A problem is said when it is seen for the second time, so that what a start-up passes through is
    not.

    Args:
        names: of the sensors; texts that differ in nothing else share a line.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names, key=len, reverse=True)
        self._seen: dict[str, str] = {}
        self._said: dict[str, str] = {}

    def update(self, problems: Mapping[str, str]) -> None:
        """Takes the problems of now.

        Args:
            problems: text by a short key.
        """
        lasting = {key: text for key, text in problems.items() if self._seen.get(key) == text}
        fresh = {key: text for key, text in lasting.items() if self._said.get(key) != text}
        over = {key: text for key, text in self._said.items() if key not in problems}
        for texts in self._groups(fresh):
            log.warning("%s", _joined(texts))
        for texts in self._groups(over):
            log.info("resolved: %s", _joined([_head(text) for text in texts]))
        self._said = {
            **{key: text for key, text in self._said.items() if key in problems},
            **fresh,
        }
        self._seen = dict(problems)

    def _groups(self, problems: Mapping[str, str]) -> list[list[str]]:
        """The distinct texts, those of a kind together."""
        found: dict[str, list[str]] = {}
        for text in dict.fromkeys(problems.values()):
            kind = text
            for name in self._names:
                kind = kind.replace(name, "*")
            found.setdefault(kind, []).append(text)
        return list(found.values())


def _joined(texts: list[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    return f"{texts[0]} [the same: {', '.join(_head(text) for text in texts[1:])}]"


def _head(text: str) -> str:
    return text.split(": ", 1)[0]
