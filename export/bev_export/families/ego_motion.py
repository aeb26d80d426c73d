"""Ego motion as FIERY and PowerBEV were trained with it: vectors of six, and the warp of BEV maps.

A motion M takes coordinates of one frame to coordinates of the next. Its vector is x y z and the
angles of Rx Ry Rz.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_from_vector(vector: Tensor) -> Tensor:
    """The rigid transform of a motion vector [6], float [4, 4]."""
    x, y, z, roll, pitch, yaw = vector.unbind()
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    cos, sin = torch.cos, torch.sin
    about_x = [one, zero, zero, zero, cos(roll), -sin(roll), zero, sin(roll), cos(roll)]
    about_y = [cos(pitch), zero, sin(pitch), zero, one, zero, -sin(pitch), zero, cos(pitch)]
    about_z = [cos(yaw), -sin(yaw), zero, sin(yaw), cos(yaw), zero, zero, zero, one]
    turns = [torch.stack(turn).view(3, 3) for turn in (about_x, about_y, about_z)]
    matrix = torch.eye(4, dtype=vector.dtype)
    matrix[:3, :3] = turns[0] @ turns[1] @ turns[2]
    matrix[:3, 3] = torch.stack((x, y, z))
    return matrix


def vector_from_matrix(matrix: Tensor) -> Tensor:
    """The motion vector [6] of a rigid transform [4, 4]."""
    roll = torch.atan2(-matrix[1, 2], matrix[2, 2])
    pitch = torch.atan2(matrix[0, 2], torch.hypot(matrix[1, 2], matrix[2, 2]))
    yaw = torch.atan2(-matrix[0, 1], matrix[0, 0])
    return torch.cat((matrix[:3, 3], torch.stack((roll, pitch, yaw))))


def cumulative_motions(future_egomotion: Tensor) -> list[Tensor]:
    """For each frame the motion vector [6] that its map is moved to the present by.

    Single motions are multiplied oldest first, M(t) M(t+1) ..., as the networks were trained, and
    not in the order of rigid motions.

    Args:
        future_egomotion: float [frames, 6]; the last entry is not used.
    """
    frames = len(future_egomotion)
    motions = [matrix_from_vector(vector) for vector in future_egomotion[:-1]]
    out = []
    for first in range(frames):
        total = torch.eye(4, dtype=future_egomotion.dtype)
        for motion in motions[first:]:
            total = total @ motion
        out.append(vector_from_matrix(total))
    return out


def planar_sampling(motion: Tensor, extent: float) -> Tensor:
    """Where each cell of the present looks in a map of the past, float [2, 3] for `affine_grid`.

    Args:
        motion: vector [6] from the past to the present.
        extent: metres from the vehicle to the border of the grid.
    """
    x, y, yaw = motion[0] / extent, motion[1] / extent, motion[5]
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    return torch.stack((torch.stack((cos, -sin, y)), torch.stack((sin, cos, -x))))
