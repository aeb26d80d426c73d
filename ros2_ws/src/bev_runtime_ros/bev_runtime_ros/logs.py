"""The runtime's log goes through rclpy: to the console, to /rosout and to the log file."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.logging import get_logger


class RosHandler(logging.Handler):
    """Hands records to an rclpy logger."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Logs one record at the nearest of rclpy's levels."""
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def bridge_logs(logger: logging.Logger) -> None:
    """Sends this logger, and that of this package, to rclpy's logger `bev_runtime`."""
    handler = RosHandler(get_logger("bev_runtime"))
    for each in (logger, logging.getLogger("bev_runtime_ros")):
        each.handlers = [handler]
        each.setLevel(logging.INFO)
        each.propagate = False
