"""What a configured node holds: rig, model, runtime and intake. Knows nothing of ROS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rosbags.typesys import Stores, get_typestore

from bev_runtime.backends import Backend, create_backend
from bev_runtime.errors import ConfigError
from bev_runtime.intake import Intake
from bev_runtime.manifest import Manifest
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import CameraConfig, LidarConfig, Rig, load_rig
from bev_runtime.runtime import Runtime
from bev_runtime.warm_up import input_types, learn_types, warm_up
from bev_runtime_ros.parameter_table import Settings


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model on a rig, ready for messages. `model_sensors`: those that the model takes.
    `unmatched` says, in words, which of them the rig lacks and which of the rig the model does not
    take. `timed`: the stages whose times outputs carry.
    """

    rig: Rig
    manifest: Manifest
    backend: Backend
    runtime: Runtime
    intake: Intake
    model_sensors: tuple[str, ...]
    unmatched: tuple[str, ...]
    timed: tuple[str, ...]


def open_session(settings: Settings) -> Session:
    """Loads everything that the parameters name, and runs it once.

    Raises:
        ConfigError: the rig file or the parameters are wrong.
        ModelError: the model package is incomplete, unsafe or does not exist.
        BackendError, MissingExtraError: the backend cannot be had.
    """
    model = load_model(settings["model"])
    rig = make_rig(settings, model.manifest)
    threads = settings["num_threads"] or None
    backend = create_backend(settings["backend"], model, num_threads=threads)
    pipeline = Pipeline(model.manifest, backend, rig)
    runtime = Runtime(rig, pipeline)
    # The messages that are read are the same in every distribution from Humble on.
    typestore = get_typestore(Stores.ROS2_HUMBLE)
    intake = Intake(runtime, typestore)
    learn_types(typestore, input_types(rig))
    timed = tuple(sorted(warm_up(model.manifest, backend, rig)))
    taken = (*pipeline.cameras, *((pipeline.lidar,) if pipeline.lidar else ()))
    return Session(
        rig=rig,
        manifest=model.manifest,
        backend=backend,
        runtime=runtime,
        intake=intake,
        model_sensors=taken,
        unmatched=unmatched(pipeline, rig),
        timed=timed,
    )


def make_rig(settings: Settings, manifest: Manifest) -> Rig:
    """The rig of the rig file, or else of the parameters."""
    if settings["rig_file"]:
        return load_rig(Path(settings["rig_file"]).expanduser())
    names = settings.names("cameras") or named_cameras(manifest)
    if not names and not settings["lidar"]:
        raise ConfigError(
            "the rig is unknown: give rig_file, or cameras and lidar (the model "
            f"'{manifest.name}' takes cameras of any name)"
        )
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"parameter cameras names {', '.join(doubled)} twice, expected each once")
    cameras = {
        name: CameraConfig(
            topic=f"~/input/{ros_name(name)}/image",
            info_topic=f"~/input/{ros_name(name)}/camera_info",
        )
        for name in names
    }
    lidar = settings["lidar"]
    motion = settings["ego_motion"]
    try:
        return Rig(
            base_frame=settings["base_frame"],
            fixed_frame=(settings["fixed_frame"] or None) if motion != "none" else None,
            cameras=cameras,
            lidar=LidarConfig(name=lidar, topic="~/input/points") if lidar else None,
            odometry_topic="~/input/odometry" if motion == "odometry" else None,
        )
    except ValidationError as problem:
        causes = "; ".join(str(error["msg"]) for error in problem.errors())
        raise ConfigError(
            f"parameters cameras {list(names)} and lidar '{lidar}': {causes}"
        ) from None


def named_cameras(manifest: Manifest) -> tuple[str, ...]:
    """The cameras that the model asks for by name; none if it takes any."""
    names = manifest.cameras.names if manifest.cameras is not None else ()
    return () if isinstance(names, str) else tuple(names)


def ros_name(sensor: str) -> str:
    """A sensor's name as a part of a topic: letters, digits and underscores."""
    word = re.sub(r"[^A-Za-z0-9_]", "_", sensor)
    return f"_{word}" if word[0].isdigit() else word


def unmatched(pipeline: Pipeline, rig: Rig) -> tuple[str, ...]:
    """Sensors that the model and the rig do not have in common, each with what to do."""
    lines = []
    model, cameras, lidar = pipeline.manifest.name, pipeline.cameras, pipeline.lidar
    absent = [name for name in cameras if name not in rig.cameras]
    unused = [name for name in rig.cameras if name not in cameras]
    if absent:
        lines.append(
            f"model '{model}' takes cameras {', '.join(absent)}, which are not in the rig (it has "
            f"{', '.join(rig.cameras) or 'none'}): name the cameras as the model does"
        )
    if unused:
        lines.append(
            f"model '{model}' does not take cameras {', '.join(unused)} of the rig (it takes "
            f"{', '.join(cameras) or 'none'})"
        )
    if lidar is not None and lidar not in rig.sensor_names:
        lines.append(f"model '{model}' takes a LiDAR '{lidar}', and the rig has none")
    return tuple(lines)
