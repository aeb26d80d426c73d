"""The TensorRT plugin without a GPU: its library is loaded and asked what TensorRT would ask."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path

import plugin_host
import pytest
from plugin_host import Built

SIZES = "out_height=128,out_width=96"
TYPES = {"f32": 0, "f16": 1, "i8": 2, "i32": 3, "i64": 8}


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Built:
    return plugin_host.build_plugin(request.config.cache)


def shapes(points: int = 1000, intervals: int = 90, channels: int = 80) -> list[str]:
    table = [str(points)] * 3 + [str(intervals)] * 2
    return ["6x59x16x44", f"6x16x44x{channels}", *table]


def descs(kind: str = "f32", out: str = "1x128x96x80", **sizes: int) -> list[str]:
    depth, feat, *table = shapes(**sizes)
    return [
        f"{kind}:{depth}",
        f"{kind}:{feat}",
        *(f"i32:{size}" for size in table),
        f"{kind}:{out}",
    ]


def made(built: Built, *words: str, phase: str = "build", name: str = "BevPool") -> list[dict]:
    return built.host(phase, name, "", *words)


def test_the_library_offers_both_names_with_and_without_the_namespace(built):
    creators = built.host("list")
    assert {(c["name"], c["namespace"]) for c in creators} == {
        (name, space) for name in ("BevPool", "bev_pool_v2") for space in ("", "bev_runtime")
    }
    for creator in creators:
        assert (creator["interface"], creator["version"]) == ("PLUGIN CREATOR_V3ONE", "1")
        assert {"out_height", "out_width", "channels_first"} <= set(creator["fields"])
        assert "version" not in creator["fields"]


def test_the_library_needs_no_library_of_tensorrt(built):
    ctypes.CDLL(str(built.plugin), mode=os.RTLD_NOW)
    names = subprocess.run(
        ["nm", "-D", "--undefined-only", built.plugin], capture_output=True, text=True, check=True
    ).stdout
    wanted = [line.split()[-1] for line in names.splitlines()]
    ours = re.compile(r"@(GLIBC|CXXABI|GCC)|^(__gmon_start__|_ITM_\w+)$")
    assert [name for name in wanted if not ours.search(name)] == []


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_the_output_has_the_type_of_the_features(built, kind):
    _, answer = made(built, SIZES, "types", kind, kind, *["i32"] * 5)
    assert (answer["code"], answer["type"]) == (0, TYPES[kind])


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (("f32", "f16"), "depth is float32 and feat float16"),
        (("i32", "i32"), "depth is int32"),
        (("i8", "i8"), "depth is int8"),
    ],
)
def test_types_that_it_cannot_pool_are_refused_in_words(built, kinds, names):
    _, answer = made(built, SIZES, "types", *kinds, *["i32"] * 5)
    assert answer["code"] != 0
    assert names in answer["log"]
    assert "expected float32 or float16, the same for both" in answer["log"]


@pytest.mark.parametrize("sizes", [{}, {"points": -1, "intervals": -1}, {"channels": 64}])
def test_the_shape_follows_the_channels_and_not_the_table(built, sizes):
    _, answer = made(built, SIZES, "shapes", *shapes(**sizes))
    assert (answer["code"], answer["shape"]) == (0, [1, 128, 96, sizes.get("channels", 80)])
    _, answer = made(built, SIZES + ",channels_first=1", "shapes", *shapes(**sizes))
    assert (answer["code"], answer["shape"]) == (0, [1, sizes.get("channels", 80), 128, 96])


def test_a_node_with_a_wrong_number_of_dimensions_is_refused(built):
    _, answer = made(built, SIZES, "shapes", "6x59x704", *shapes()[1:])
    assert answer["code"] != 0
    assert "depth has 3 dimensions, expected 4" in answer["log"]


@pytest.mark.parametrize("name", ["output_height=128,output_width=96,output_z=1", SIZES])
def test_attributes_go_by_the_names_that_exporters_give_them(built, name):
    _, answer = made(built, name, "shapes", *shapes(), name="bev_pool_v2")
    assert answer["shape"] == [1, 128, 96, 80]


def test_only_linear_tensors_of_the_right_types_are_supported(built):
    def supported(position: int, tensors: list[str]) -> bool:
        return made(built, SIZES, "format", str(position), *tensors)[1]["supported"]

    for kind in ("f32", "f16"):
        assert all(supported(position, descs(kind)) for position in range(8))
        other = descs(kind)
        for position in range(8):
            linear = other[position]
            other[position] = linear + ":hwc8"
            assert not supported(position, other)
            other[position] = linear
    for position, wrong in [(0, "i8"), (1, "f16"), (2, "i64"), (4, "f32"), (6, "i64"), (7, "f16")]:
        tensors = descs()
        tensors[position] = re.sub(r"^\w+", wrong, tensors[position])
        assert not supported(position, tensors)
    assert not supported(8, descs())


@pytest.mark.parametrize("action", ["configure", "change"])
def test_shapes_are_checked_when_an_engine_is_built_and_when_they_change(built, action):
    _, answer = made(built, SIZES, action, *descs())
    assert answer == {"code": 0, "log": ""}
    _, answer = made(built, SIZES, action, *descs(out="1x128x96x64"))
    assert answer["code"] != 0
    assert "out has shape [1, 128, 96, 64] for feat [6, 16, 44, 80]" in answer["log"]
    wrong = descs()
    wrong[3] = "i32:999"
    _, answer = made(built, SIZES, action, *wrong)
    assert answer["code"] != 0
    assert "1000, 999, 1000 ranks and 90, 90 intervals" in answer["log"]
    wrong = descs()
    wrong[1] = wrong[1].replace("f32", "f16")
    _, answer = made(built, SIZES, action, *wrong)
    assert answer["code"] != 0
    assert "feat is float16, expected float32 or float16, the same for depth" in answer["log"]


def test_sizes_that_are_not_known_yet_pass_while_an_engine_is_built(built):
    open_sizes = descs(points=-1, intervals=-1)
    open_sizes[0], open_sizes[1] = "f32:-1x59x16x44", "f32:-1x16x44x80"
    assert made(built, SIZES, "configure", *open_sizes)[1]["code"] == 0


@pytest.mark.parametrize("name", ["BevPool", "bev_pool_v2"])
def test_clones_and_restored_plugins_are_what_the_first_one_was(built, name):
    words = [SIZES + ",channels_first=1", "fields", "clone", "attach", "restore", "clone", "fields"]
    words += ["shapes", *shapes(channels=32)]
    _, before, clone, attached, restored, _, after, answer = made(built, *words, name=name)
    assert before["fields"] == after["fields"]
    assert before["fields"] == {
        "version": 1,
        "out_height": 128,
        "out_width": 96,
        "channels_first": 1,
    }
    assert (clone["name"], attached["name"], restored["created"]) == (name, name, True)
    assert answer["shape"] == [1, 32, 128, 96]


@pytest.mark.parametrize("version", [0, 2, -1])
def test_an_engine_of_another_version_is_refused_in_words(built, version):
    *_, restored = made(built, SIZES, "restore", f"version={version}")
    assert not restored["created"]
    assert f"fields have version {version}, expected 1..1" in restored["log"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("", "out_height is 0 and out_width 0"),
        ("out_height=128", "out_width 0, expected positive sizes"),
        ("out_height=128,out_width=-5", "out_width -5"),
        ("out_height=65536,out_width=65536", "at most 2^31 - 1 cells"),
        (SIZES + ",channels_first=2", "channels_first is 2, expected 0 or 1"),
        (SIZES + ",output_z=4", "output_z is 4, expected 1"),
        (SIZES + ",colour=3", "attribute 'colour' is unknown"),
    ],
)
def test_attributes_that_make_no_sense_are_refused_in_words(built, fields, message):
    (answer,) = made(built, fields)
    assert not answer["created"]
    assert message in answer["log"]


def test_enqueue_refuses_null_pointers_and_says_so(built):
    _, answer = made(built, SIZES, "enqueue_null", *descs())
    assert answer["code"] != 0
    assert "pooling was refused with code -1" in answer["log"]


def test_the_plugin_compiles_against_every_given_tensorrt(request):
    toolkit = plugin_host.nvcc().parents[1]
    given = os.environ.get("BEV_RUNTIME_TENSORRT_INCLUDE", "")
    fetched = plugin_host.tensorrt_headers(Path(request.config.cache.mkdir("gpu_builds")))
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    includes = [f"-I{plugin_host.CUDA / 'include'}", "-isystem", toolkit / "include", "-isystem"]
    for folder in given.split(os.pathsep) if given else [fetched]:
        for source in ("plugin.cpp", "creator.cpp"):
            command = [plugin_host.compiler(), *flags, *includes, folder]
            plugin_host.run([*command, plugin_host.TENSORRT / source])
