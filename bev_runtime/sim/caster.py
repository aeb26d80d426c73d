"""Casts rays at triangle meshes with Embree (extra `sim`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import MissingExtraError
from bev_runtime.sim.meshes import Mesh

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

NOTHING = -1
GROUND = -1
SCENERY = -2


@dataclass(frozen=True, slots=True)
class Part:
    """A mesh whose faces belong to objects: `owner` int32 [F], the index of an agent, GROUND or
    SCENERY.
    """

    mesh: Mesh
    owner: Int32


@dataclass(frozen=True, slots=True)
class Hits:
    """What R rays met: `distance` float32 [R] in units of the direction (inf: nothing), `face`
    int32 [R] (-1: nothing), an index into the arrays of the `Caster`.
    """

    distance: Float32
    face: Int32


class Caster:
    """Several meshes as one scene. Parts that do not change may be shared by `with_part`.

    Attributes:
        normal: float32 [F, 3], unit; material: uint8 [F]; colour: uint8 [F, 3]; owner: int32 [F].
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._scenes = [_scene(part.mesh) for part in parts]
        self._parts = tuple(parts)
        self._collect()

    def with_part(self, part: Part) -> Caster:
        """A caster of this one's parts and one more; this one's search trees are shared."""
        other = Caster.__new__(Caster)
        other._scenes = [*self._scenes, _scene(part.mesh)]
        other._parts = (*self._parts, part)
        other._collect()
        return other

    def cast(self, origins: Float32, directions: Float32) -> Hits:
        """The nearest face along each ray; float32 [R, 3] each."""
        distance = np.full(len(origins), np.inf, np.float32)
        face = np.full(len(origins), NOTHING, np.int32)
        first = 0
        for scene, part in zip(self._scenes, self._parts, strict=True):
            if scene is not None and len(origins):
                found = scene.run(origins, directions, output=1)
                nearer = (found["primID"] >= 0) & (found["tfar"] < distance)
                np.copyto(distance, found["tfar"], where=nearer)
                np.copyto(face, found["primID"] + first, where=nearer)
            first += len(part.mesh.faces)
        return Hits(distance, face)

    def blocked(self, origins: Float32, directions: Float32, reach: Float32) -> NDArray[np.bool_]:
        """Whether something lies on each ray nearer than `reach` float32 [R]."""
        hidden = np.zeros(len(origins), np.bool_)
        for scene in self._scenes:
            if scene is not None and len(origins):
                hidden |= scene.run(origins, directions, query="DISTANCE") < reach
        return hidden

    def _collect(self) -> None:
        meshes = [part.mesh for part in self._parts]
        self.normal = np.concatenate([_normals(mesh) for mesh in meshes])
        self.material = np.concatenate([mesh.material for mesh in meshes])
        self.colour = np.concatenate([mesh.colour for mesh in meshes])
        self.owner = np.concatenate([part.owner for part in self._parts])


def _scene(mesh: Mesh) -> Any:  # noqa: ANN401 (Embree's Python classes have no types)
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as problem:
        raise MissingExtraError(
            f"the simulator casts rays with Embree, which cannot be imported ({problem}): install "
            "it with pip install 'bev-runtime[sim]'"
        ) from problem
    if not len(mesh.faces):
        return None
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(mesh.vertices), np.ascontiguousarray(mesh.faces))
    return scene


def _normals(mesh: Mesh) -> Float32:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.asarray(normal / np.maximum(length, 1e-9), np.float32)
