"""Writing a model package: ONNX files, manifest.yaml, LICENSE and README.md, the same bytes on
every run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bev_runtime.errors import BevRuntimeError
from bev_runtime.manifest import Manifest
from bev_runtime.model import load_model


class ExportError(BevRuntimeError):
    """The weights are not what an export expects."""


def write_package(
    folder: Path,
    manifest: Mapping[str, Any],
    *,
    stages: Mapping[str, bytes],
    texts: Mapping[str, str],
) -> None:
    """Writes a package and loads it once, so that what was written is known to be accepted.

    Args:
        folder: made if needed; files of the same name are replaced.
        manifest: as in `bev_runtime.manifest`, where each stage has no `sha256` yet.
        stages: the ONNX bytes of each stage by its name.
        texts: further text files, content by file name.

    Raises:
        ModelError: the manifest and the stages do not fit each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    complete = json.loads(json.dumps(manifest))
    for stage in complete["stages"]:
        data = stages[stage["name"]]
        stage["sha256"] = hashlib.sha256(data).hexdigest()
        (folder / stage["file"]).write_bytes(data)
    Manifest.model_validate_json(json.dumps(complete))
    text = yaml.safe_dump(
        complete, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )
    (folder / "manifest.yaml").write_text(text, encoding="utf-8")
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
    load_model(folder)
