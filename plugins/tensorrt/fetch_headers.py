"""Puts the public headers of TensorRT into a folder, from a PyPI wheel that carries them.

TensorRT's own wheels hold no headers. The wheel `kernel-lens` has those of TensorRT 10
(Apache-2.0). It is fetched with pip, checked against its hash and opened as an archive; nothing of
it is installed or run.

    python fetch_headers.py FOLDER
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

REQUIREMENT = "kernel-lens==2.0.1"
SHA256 = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"
INCLUDE = PurePosixPath("kernel_lens/include/tensorrt")


def fetch(folder: Path) -> list[Path]:
    """Writes the headers; an incomplete download leaves the folder without NvInferRuntime.h.

    Returns:
        The headers.

    Raises:
        subprocess.CalledProcessError: pip could not fetch the wheel, or its hash is another one.
        LookupError: the wheel has no headers.
    """
    with tempfile.TemporaryDirectory() as temporary:
        wish = Path(temporary) / "requirements.txt"
        wish.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        exactly = ["--no-deps", "--only-binary=:all:", "--require-hashes"]
        command = [*pip, *exactly, "--requirement", str(wish), "--dest", temporary]
        subprocess.run(command, check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if PurePosixPath(name).parent == INCLUDE]
            if not any(name.endswith("/NvInferRuntime.h") for name in names):
                raise LookupError(
                    f"{wheel.name} has no {INCLUDE}/NvInferRuntime.h: install TensorRT instead"
                )
            # The header that others look for comes last.
            names.sort(key=lambda name: name.endswith("/NvInferRuntime.h"))
            headers = []
            for name in names:
                headers.append(folder / PurePosixPath(name).name)
                headers[-1].write_bytes(archive.read(name))
    return headers


def main() -> None:
    """Reads the folder from the command line."""
    parser = argparse.ArgumentParser(description="Fetch the headers of TensorRT from PyPI.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    headers = fetch(folder)
    sys.stdout.write(f"{len(headers)} headers of TensorRT in {folder}\n")


if __name__ == "__main__":
    main()
