"""What cameras see: shaded, shadowed, exposed and noisy pictures, and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import unproject
from bev_runtime.geometry import Float64
from bev_runtime.sim.caster import GROUND, Caster, Hits
from bev_runtime.sim.ground import CELL, Ground
from bev_runtime.sim.materials import TEXTURE, Material
from bev_runtime.sim.town import Town
from bev_runtime.types import CameraModel

Float32 = NDArray[np.float32]
SHADOW_REACH_M = 80.0
COVER_REACH_M = 1.5
REMAP_WIDTH = 256


@dataclass(frozen=True, slots=True)
class View:
    """A camera somewhere in a town: `camera` in pixels of the picture to make, `town_from_camera`
    float64 [4, 4], optical frame.
    """

    camera: CameraModel
    town_from_camera: Float64


@dataclass(frozen=True, slots=True)
class Picture:
    """`rgb`: uint8 [H, W, 3]. `depth`: float32 [H, W], metres along the optical axis, inf for sky.
    `owner`: int32 [H, W], the agent's index, GROUND or SCENERY; -3 for sky.
    """

    rgb: NDArray[np.uint8]
    depth: Float32
    owner: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Finish:
    """What the camera's electronics do: `gain` on the light, `balance` RGB, `noise` in grey values,
    `blur` in pixels, `vignette` 0..1.
    """

    gain: float = 1.0
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    noise: float = 2.0
    blur: float = 0.0
    vignette: float = 0.15


def random_finish(rng: np.random.Generator) -> Finish:
    """The finish of one camera."""
    return Finish(
        gain=float(rng.uniform(0.8, 1.2)),
        balance=(float(rng.uniform(0.93, 1.07)), 1.0, float(rng.uniform(0.93, 1.07))),
        noise=float(rng.uniform(0.5, 5.0)),
        blur=float(rng.choice([0.0, 0.5, 0.8])),
        vignette=float(rng.uniform(0, 0.3)),
    )


class PictureMaker:
    """Renders a town. Rays of cameras are kept, so that a rig is unprojected once."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._rays: dict[int, tuple[CameraModel, Float32]] = {}

    def render(
        self,
        caster: Caster,
        views: Sequence[View],
        finishes: Sequence[Finish],
        rng: np.random.Generator,
    ) -> list[Picture]:
        """Pictures of all views at the moment of the caster, exposed each for itself.

        Args:
            caster: the town at that moment.
            views: where the cameras are.
            finishes: one per view.
            rng: of the noise.
        """
        rays = [self._rays_of(view.camera) for view in views]
        counts = [len(r) for r in rays]
        rotations = [view.town_from_camera[:3, :3].astype(np.float32) for view in views]
        directions = np.concatenate([r @ m.T for r, m in zip(rays, rotations, strict=True)])
        places = np.array([view.town_from_camera[:3, 3] for view in views], np.float32)
        origins = np.repeat(places, counts, axis=0)
        usable = np.isfinite(directions[:, 0])
        if not usable.all():
            directions[~usable] = (0.0, 0.0, 1.0)
        hits = caster.cast(origins, directions)
        pitch = np.repeat([1.0 / view.camera.intrinsics[0, 0] for view in views], counts)
        light = self._shade(caster, hits, origins, directions, pitch.astype(np.float32))
        light[~usable] = 0
        owner = np.where(hits.face >= 0, caster.owner[hits.face], -3).astype(np.int32)
        pictures, first = [], 0
        for view, finish, count in zip(views, finishes, counts, strict=True):
            width, height = view.camera.size
            part = slice(first, first + count)
            rgb = _develop(light[part].reshape(height, width, 3), finish, rng)
            depth = hits.distance[part].reshape(height, width)
            pictures.append(Picture(rgb, depth, owner[part].reshape(height, width)))
            first += count
        return pictures

    def _rays_of(self, camera: CameraModel) -> Float32:
        kept = self._rays.get(id(camera))
        if kept is None:
            width, height = camera.size
            v, u = np.mgrid[:height, :width]
            pixels = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float64)
            kept = self._rays[id(camera)] = (camera, unproject(camera, pixels).astype(np.float32))
        return kept[1]

    def _shade(
        self, caster: Caster, hits: Hits, origins: Float32, directions: Float32, pitch: Float32
    ) -> Float32:
        """Light float32 [R, 3], 0..255 at normal exposure."""
        town, light = self._town, self._town.light
        length = np.sqrt(np.einsum("ij,ij->i", directions, directions))
        out = np.empty((len(directions), 3), np.float32)
        sky = np.flatnonzero(hits.face < 0)
        out[sky] = light.sky(directions[sky] / length[sky, None], town.noise)
        solid = np.flatnonzero(hits.face >= 0)
        face, away = hits.face[solid], directions[solid]
        distance = hits.distance[solid] * length[solid]
        position = origins[solid] + hits.distance[solid, None] * away
        away = away / length[solid, None]
        normal = caster.normal[face].copy()
        normal[np.einsum("ij,ij->i", normal, away) > 0] *= -1
        is_ground = caster.owner[face] == GROUND
        colour = caster.colour[face].astype(np.float32)
        colour *= self._texture(position, caster.material[face], distance)[:, None]
        on_ground = np.flatnonzero(is_ground)
        footprint = distance[on_ground] * pitch[solid][on_ground]
        footprint /= np.sqrt(np.abs(away[on_ground, 2]).clip(0.05))
        colour[on_ground] = ground_colour(town.ground, position[on_ground], footprint)
        colour[on_ground] *= self._grain(position[on_ground], footprint)[:, None]
        facing = np.clip(normal @ light.sun, 0, None)
        start = position + 0.02 * normal - 0.001 * away
        lit = self._lit(caster, start, normal, facing)
        ambient = 0.65 + 0.35 * normal[:, 2]
        glow = light.ambient * ambient[:, None] * (1.0 if light.casts_shadows else lit[:, None])
        if light.casts_shadows:
            glow = glow + light.direct * (facing * lit)[:, None]
        shaded = colour * glow
        mirror = np.zeros(len(face), np.float32)
        material = caster.material[face]
        mirror[material == Material.GLASS] = 0.5
        mirror[material == Material.CAR_PAINT] = 0.12
        mirror[is_ground] = light.wetness * np.clip(0.6 - 3 * np.abs(away[is_ground, 2]), 0, 1)
        shaded += mirror[:, None] * (light.horizon * 0.8 - shaded)
        clear = np.exp(-light.haze * distance)[:, None]
        out[solid] = clear * shaded + (1 - clear) * light.horizon
        return out

    def _lit(self, caster: Caster, start: Float32, normal: Float32, facing: Float32) -> Float32:
        """Share of light that arrives: the sun's, or of an overcast sky how open it is above."""
        light = self._town.light
        lit = np.ones(len(start), np.float32)
        if light.casts_shadows:
            asked = np.flatnonzero(facing > 0)
            direction, reach, dark = light.sun, SHADOW_REACH_M, 0.0
        else:
            asked = np.flatnonzero(normal[:, 2] > 0.5)
            direction, reach, dark = np.array([0, 0, 1], np.float32), COVER_REACH_M, 0.35
        towards = np.broadcast_to(direction, (len(asked), 3)).astype(np.float32)
        hidden = caster.blocked(start[asked], towards, np.full(len(asked), reach, np.float32))
        lit[asked[hidden]] = dark
        return lit

    def _texture(
        self, position: Float32, material: NDArray[np.uint8], distance: Float32
    ) -> Float32:
        """Brightness of surfaces, float32 [R] around 1, by noise fixed to the place."""
        cells = np.floor(position * np.array([7, 7, 9], np.float32)).astype(np.int32)
        row, column = cells[:, 0] + 37 * cells[:, 2], cells[:, 1] + 17 * cells[:, 2]
        noise = self._town.noise[row & 511, column & 511]
        strength = TEXTURE[material] / (1 + distance / 40)
        return np.asarray(np.clip(1 + strength * noise, 0.3, 1.8), np.float32)

    def _grain(self, position: Float32, footprint: Float32) -> Float32:
        """Fine grain of the ground, gone where a pixel covers more than a few centimetres."""
        cells = np.floor(position[:, :2] * 40).astype(np.int32) & 511
        strength = 0.06 / (1 + (footprint / 0.03) ** 2)
        noise = self._town.noise[cells[:, 0], cells[:, 1]]
        return np.asarray(1 + strength * noise, np.float32)


def ground_colour(ground: Ground, position: Float32, footprint: Float32) -> Float32:
    """RGB float32 [R, 3] of the ground at points [R, 3], averaged over a pixel's footprint [R] m.

    Each point is looked up bilinearly in the level of the colour pyramid that fits its footprint.
    """
    levels = np.log2(np.maximum(footprint / np.float32(CELL), 1)).round().astype(np.int32)
    levels = np.minimum(levels, len(ground.colours) - 1)
    out = np.empty((len(position), 3), np.float32)
    for level, colours in enumerate(ground.colours):
        chosen = np.flatnonzero(levels == level)
        if not len(chosen):
            continue
        rows = -(-len(chosen) // REMAP_WIDTH)
        at = np.zeros((rows * REMAP_WIDTH, 2), np.float32)
        at[: len(chosen)] = (position[chosen, :2] + ground.half_size) / (CELL * 2**level) - 0.5
        row, column = (at[:, i].reshape(rows, REMAP_WIDTH) for i in (0, 1))
        found = cv2.remap(colours, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out[chosen] = found.reshape(-1, 3)[: len(chosen)]
    return out


def _develop(light: Float32, finish: Finish, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure for a mean grey, white balance, vignette, blur and noise."""
    height, width = light.shape[:2]
    mean = float(light[height // 4 :].mean())
    gain = finish.gain * float(np.clip(115.0 / max(mean, 1.0), 0.6, 2.5))
    v, u = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shading = (1 - finish.vignette * (u * u + v * v) / 2).astype(np.float32)[..., None]
    picture = light * (shading * np.float32(gain) * np.array(finish.balance, np.float32))
    over = picture > 200
    np.copyto(picture, 200 + 55 * (1 - np.exp(-(picture - 200) / 55)), where=over)
    if finish.blur > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), finish.blur)
    if finish.noise > 0:
        picture += finish.noise * rng.standard_normal(picture.shape, np.float32)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)
