"""Fixtures of the tests that need a CUDA device; each of them skips without one."""

from __future__ import annotations

import ctypes

import plugin_host
import pytest
from device import Device
from plugin_host import Built


@pytest.fixture(scope="session")
def device() -> Device:
    if not plugin_host.has_gpu():
        pytest.skip("no CUDA device on this machine")
    return Device()


@pytest.fixture(scope="session")
def gpu_build(request: pytest.FixtureRequest, device: Device) -> Built:
    """The kernels and the plugin for this very device."""
    return plugin_host.build_plugin(request.config.cache, f"{device.architecture}-real")


@pytest.fixture(scope="session")
def kernels(gpu_build: Built) -> ctypes.CDLL:
    return plugin_host.declare(gpu_build.kernels)


@pytest.fixture(scope="session")
def core(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """The same kernels on the CPU."""
    return plugin_host.open_core(request.config)
