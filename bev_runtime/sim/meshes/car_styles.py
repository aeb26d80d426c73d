"""The sides of cars: sedan, hatchback, city car, estate, SUV, minivan and delivery van."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[float, float, float]
Line = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Style:
    """The side of a car by shares of its length (0 tail, 1 nose) and height.

    `belt`: (x, height) of boot, shoulders and bonnet. `cabin`: (x, height) and what lies between
    this and the next corner: `rear`, `window`, `pillar` or `screen`. `size` and `spread`: mean and
    deviation of l, w, h in metres. `weight`: how often it is met.
    """

    belt: Line
    cabin: tuple[tuple[float, float, str], ...]
    size: Size
    spread: Size
    weight: float


STYLES: dict[str, Style] = {
    "sedan": Style(
        ((0, 0.5), (0.03, 0.65), (0.16, 0.67), (0.72, 0.63), (0.92, 0.54), (1, 0.42)),
        (
            (0.13, 0.65, "rear"),
            (0.29, 0.95, "pillar"),
            (0.33, 0.975, "window"),
            (0.49, 1.0, "pillar"),
            (0.515, 1.0, "window"),
            (0.6, 0.97, "screen"),
            (0.75, 0.61, ""),
        ),
        (4.75, 1.9, 1.47),
        (0.22, 0.06, 0.04),
        0.28,
    ),
    "hatchback": Style(
        ((0, 0.48), (0.03, 0.62), (0.2, 0.63), (0.74, 0.61), (0.93, 0.52), (1, 0.4)),
        (
            (0.015, 0.61, "rear"),
            (0.1, 0.92, "pillar"),
            (0.16, 0.965, "window"),
            (0.4, 1.0, "pillar"),
            (0.425, 1.0, "window"),
            (0.56, 0.97, "screen"),
            (0.77, 0.6, ""),
        ),
        (4.15, 1.86, 1.52),
        (0.22, 0.06, 0.05),
        0.2,
    ),
    "city": Style(
        ((0, 0.45), (0.03, 0.57), (0.2, 0.6), (0.8, 0.57), (0.95, 0.5), (1, 0.4)),
        (
            (0.01, 0.56, "rear"),
            (0.07, 0.92, "pillar"),
            (0.17, 0.98, "window"),
            (0.42, 1.0, "pillar"),
            (0.45, 1.0, "window"),
            (0.62, 0.97, "screen"),
            (0.83, 0.56, ""),
        ),
        (3.6, 1.74, 1.54),
        (0.18, 0.05, 0.05),
        0.08,
    ),
    "estate": Style(
        ((0, 0.48), (0.02, 0.63), (0.2, 0.65), (0.73, 0.62), (0.93, 0.53), (1, 0.42)),
        (
            (0.012, 0.62, "rear"),
            (0.085, 0.94, "pillar"),
            (0.115, 0.96, "window"),
            (0.27, 0.985, "pillar"),
            (0.295, 0.99, "window"),
            (0.46, 1.0, "pillar"),
            (0.48, 1.0, "window"),
            (0.59, 0.97, "screen"),
            (0.75, 0.61, ""),
        ),
        (4.75, 1.92, 1.52),
        (0.18, 0.05, 0.05),
        0.1,
    ),
    "suv": Style(
        ((0, 0.46), (0.02, 0.62), (0.2, 0.64), (0.74, 0.62), (0.94, 0.56), (1, 0.42)),
        (
            (0.01, 0.61, "rear"),
            (0.065, 0.93, "pillar"),
            (0.1, 0.96, "window"),
            (0.27, 0.99, "pillar"),
            (0.295, 0.99, "window"),
            (0.46, 1.0, "pillar"),
            (0.485, 1.0, "window"),
            (0.58, 0.975, "screen"),
            (0.74, 0.61, ""),
        ),
        (4.75, 2.02, 1.76),
        (0.25, 0.07, 0.08),
        0.24,
    ),
    "minivan": Style(
        ((0, 0.42), (0.01, 0.52), (0.3, 0.54), (0.84, 0.52), (0.96, 0.43), (1, 0.34)),
        (
            (0.006, 0.52, "rear"),
            (0.04, 0.93, "pillar"),
            (0.075, 0.965, "window"),
            (0.3, 0.99, "pillar"),
            (0.33, 1.0, "window"),
            (0.56, 1.0, "pillar"),
            (0.585, 0.99, "window"),
            (0.69, 0.95, "screen"),
            (0.88, 0.51, ""),
        ),
        (4.9, 2.0, 1.9),
        (0.3, 0.06, 0.12),
        0.08,
    ),
    "delivery": Style(
        ((0, 0.42), (0.01, 0.5), (0.3, 0.5), (0.84, 0.5), (0.96, 0.42), (1, 0.32)),
        (
            (0.003, 0.49, "pillar"),
            (0.012, 0.96, "pillar"),
            (0.1, 1.0, "pillar"),
            (0.62, 1.0, "window"),
            (0.75, 0.95, "screen"),
            (0.88, 0.49, ""),
        ),
        (5.5, 2.15, 2.4),
        (0.4, 0.08, 0.2),
        0.06,
    ),
}
