"""The cache of compiled engines: what is used, what is refused, and what is said."""

import hashlib
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bev_runtime.backends.engine_cache import (
    DEBRIS_S,
    MAGIC,
    Engine,
    EngineCache,
    EngineKey,
    Miss,
    default_folder,
    read_engine,
)
from bev_runtime.cli import main
from bev_runtime.errors import BackendError

KEY = EngineKey(
    onnx_sha256="a" * 64,
    manifest_sha256="b" * 64,
    library="tensorrt_rtx 1.7.1",
    gpu="any",
    sm="89",
    precision="fp32",
    plugin_sha256="",
    profiles='{"images": [[1], [6], [6]]}',
)
DATA = bytes(range(256)) * 8
FACTS = {
    "part": "head",
    "inputs": [{"name": "images", "dtype": "float32", "shape": ["N", 4]}],
    "outputs": [{"name": "scores", "dtype": "float16", "shape": [2, "N"]}],
    "profiles": {"images": {"least": [1, 4], "best": [6, 4], "most": [6, 4]}},
    "layers": [{"name": "conv", "type": "convolution", "precision": "half", "shape": [2, 6]}],
    "build_s": 1.5,
}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """An empty cache."""
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def stored(cache: EngineCache) -> Engine:
    """An engine in the cache."""
    return cache.store("model.head", KEY, DATA, FACTS)


def reason(found: Engine | Miss) -> str:
    """Why there is no engine."""
    assert isinstance(found, Miss)
    return found.reason


def test_a_stored_engine_comes_back_byte_for_byte(cache: EngineCache, stored: Engine) -> None:
    found = cache.load("model.head", KEY)
    assert isinstance(found, Engine)
    assert found.data == DATA
    assert found.header["key"] == asdict(KEY)
    assert found.path == stored.path


def test_an_engine_that_was_never_built_is_a_miss(cache: EngineCache) -> None:
    assert reason(cache.load("model.head", KEY)) == "not built yet"


@pytest.mark.parametrize("part", sorted(asdict(KEY)))
@pytest.mark.usefixtures("stored")
def test_each_part_of_the_key_makes_an_engine_stale_and_is_named(
    cache: EngineCache, part: str
) -> None:
    found = reason(cache.load("model.head", replace(KEY, **{part: "other"})))
    assert found.startswith(f"{part} was ")
    assert found.endswith("is 'other'")
    assert ";" not in found  # no other part is blamed


@pytest.mark.parametrize("at", [-1, -len(DATA), -len(DATA) - 2, len(MAGIC), len(MAGIC) + 70])
def test_a_flipped_bit_in_engine_hash_or_description_is_found(
    cache: EngineCache, stored: Engine, at: int
) -> None:
    content = bytearray(stored.path.read_bytes())
    content[at] ^= 1
    stored.path.write_bytes(content)
    assert "damaged or was changed" in reason(cache.load("model.head", KEY))


@pytest.mark.parametrize("kept", [0, 5, len(MAGIC), len(MAGIC) + 40, -1])
def test_an_engine_cut_short_is_found(cache: EngineCache, stored: Engine, kept: int) -> None:
    stored.path.write_bytes(stored.path.read_bytes()[:kept])
    assert "build" in reason(cache.load("model.head", KEY))


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"null", b'{"bytes": 2, "key": {}}', b"\xff", b"[" * 9000]
)
def test_a_description_that_is_no_description_is_refused(
    cache: EngineCache, stored: Engine, line: bytes
) -> None:
    rest = line + b"\n" + DATA
    digest = hashlib.sha256(rest).hexdigest().encode()
    stored.path.write_bytes(MAGIC + digest + b"\n" + rest)
    assert "does not describe an engine" in reason(cache.load("model.head", KEY))


def test_an_engine_of_another_program_is_refused(cache: EngineCache, stored: Engine) -> None:
    stored.path.write_bytes(b"ftrt" + DATA)
    assert "is not an engine of this runtime" in reason(cache.load("model.head", KEY))


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_an_engine_that_others_can_touch_is_refused(
    cache: EngineCache, stored: Engine, mode: int
) -> None:
    stored.path.chmod(mode)
    assert f"has mode {mode:04o}" in reason(cache.load("model.head", KEY))


def test_an_engine_behind_a_link_is_refused(
    cache: EngineCache, stored: Engine, tmp_path: Path
) -> None:
    elsewhere = stored.path.rename(tmp_path / "elsewhere")
    stored.path.symlink_to(elsewhere)
    assert "not a link" in reason(cache.load("model.head", KEY))


def test_a_pipe_in_place_of_an_engine_does_not_hang(cache: EngineCache) -> None:
    os.mkfifo(cache.path("model.head"), 0o600)
    assert "not a regular file" in reason(cache.load("model.head", KEY))


@pytest.mark.usefixtures("stored")
def test_an_engine_of_another_user_is_refused(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to user {owner}" in reason(cache.load("model.head", KEY))


def test_a_cache_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(BackendError, match=f"belongs to user {owner}"):
        EngineCache(tmp_path / "engines")


def test_what_an_interrupted_build_left_goes_after_a_day(cache: EngineCache) -> None:
    now = time.time()
    for name, age_s in (("old", DEBRIS_S + 10), ("new", 10)):
        graphs, half = cache.folder / f".build-{name}", cache.folder / f".engine-{name}"
        graphs.mkdir()
        (graphs / "graph.onnx").touch()
        half.touch()
        for path in (graphs, half):
            os.utime(path, (now - age_s, now - age_s))
    EngineCache(cache.folder)
    assert {path.name for path in cache.folder.iterdir()} == {".build-new", ".engine-new"}


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(BackendError, match=r"no home folder.*--cache"):
        default_folder()


def test_folder_and_files_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = EngineCache(tmp_path / "engines")
        engine = cache.store("model.head", KEY, DATA, FACTS)
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert engine.path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(BackendError, match=r"has mode 0755.*chmod 700"):
        EngineCache(folder)


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "engines").symlink_to(tmp_path / "real")
    with pytest.raises(BackendError, match="engine cache"):
        EngineCache(tmp_path / "engines")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").touch()
    with pytest.raises(BackendError, match="cannot be used"):
        EngineCache(tmp_path / "engines")


def test_a_write_that_fails_leaves_the_old_engine_and_no_debris(
    cache: EngineCache, stored: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match="No space left"):
        cache.store("model.head", replace(KEY, sm="120"), DATA[::-1], FACTS)
    assert [path.name for path in cache.folder.iterdir()] == [stored.path.name]
    assert read_engine(stored.path).data == DATA


def test_the_default_folder_follows_the_users_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "bev_runtime" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "bev_runtime" / "engines"


def test_inspect_shows_key_layers_precision_and_memory(
    stored: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(stored.path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["key"] == asdict(KEY)
    assert report["precisions"] == {"half": 1}
    assert report["layers"] == FACTS["layers"]
    assert report["engine_bytes"] == len(DATA)
    assert report["io_bytes"] == 6 * 4 * 4 + 2 * 6 * 2
    assert main(["inspect", str(stored.path)]) == 0


def test_inspect_of_a_changed_engine_fails_in_one_line(
    stored: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.path.write_bytes(stored.path.read_bytes()[:-1])
    assert main(["inspect", str(stored.path)]) == 1
    assert "damaged or was changed" in capsys.readouterr().err
