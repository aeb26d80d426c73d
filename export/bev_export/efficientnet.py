"""EfficientNet b0 and b4 as image encoders of published BEV models.

Parameters are named as in the PyTorch port that those models were trained with (`_conv_stem`,
`_blocks.3._se_reduce`, ...), so that their checkpoints load. Architecture: Tan and Le, ICML 2019.

The port pads each convolution as TensorFlow's "same" rule would for a square picture of the size
that the variant was designed for, once, when the network is made. The real picture's size does not
matter: a "same" rule on it would shift features by a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

BATCH_NORM_EPS = 1e-3
SQUEEZE_RATIO = 0.25
STEM_CHANNELS, HEAD_CHANNELS, CLASSES = 32, 1280, 1000

# repeats, kernel, stride of the first, expansion, channels of each stage of b0
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Variant:
    """Factors on the widths and depths of b0, and the side of the square picture that paddings are
    made for.
    """

    width: float
    depth: float
    image_size: int

    def channels(self, of_b0: int) -> int:
        """The width of a layer: scaled, a multiple of 8, and not more than a tenth too small."""
        wanted = of_b0 * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded

    def repeats(self, of_b0: int) -> int:
        """Blocks of a stage."""
        return math.ceil(of_b0 * self.depth)


VARIANTS = {"b0": Variant(1.0, 1.0, 224), "b4": Variant(1.4, 1.8, 380)}


@dataclass(frozen=True)
class BlockSpec:
    """One inverted residual block; `size`: side of the square picture at its input, for padding."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int
    size: int


def block_specs(variant: str) -> tuple[BlockSpec, ...]:
    """All blocks of a variant.

    Raises:
        ValueError: the variant is not known.
    """
    if variant not in VARIANTS:
        raise ValueError(f"EfficientNet '{variant}' is not known, expected one of {[*VARIANTS]}")
    scale = VARIANTS[variant]
    size, inputs = math.ceil(scale.image_size / 2), scale.channels(STEM_CHANNELS)
    specs = []
    for repeats, kernel, first_stride, expansion, of_b0 in STAGES:
        outputs = scale.channels(of_b0)
        for repeat in range(scale.repeats(repeats)):
            stride = first_stride if repeat == 0 else 1
            specs.append(BlockSpec(inputs, outputs, kernel, stride, expansion, size))
            size, inputs = math.ceil(size / stride), outputs
    return tuple(specs)


class StaticSameConv(nn.Conv2d):
    """A convolution without bias, padded for a square picture of `size` pixels whatever it gets.

    For that picture the result has `ceil(size / stride)` pixels; an odd padding is one larger on
    the right and at the bottom.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, *, size: int, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        self.static_padding = (before, after, before, after)
        """Left, right, top, bottom, pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [N, inputs, H, W] to [N, outputs, H', W']."""
        before, after = self.static_padding[:2]
        if before == after:
            return functional.conv2d(
                x, self.weight, None, self.stride, before, self.dilation, self.groups
            )
        return super().forward(functional.pad(x, self.static_padding))


class Block(nn.Module):
    """Expand, convolve each channel, squeeze and excite, project; added to the input where the
    shape stays.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        middle = spec.inputs * spec.expansion
        squeezed = max(1, int(spec.inputs * SQUEEZE_RATIO))
        self.expands = spec.expansion != 1
        self.is_residual = spec.stride == 1 and spec.inputs == spec.outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(spec.inputs, middle, 1, bias=False)
            self._bn0 = _batch_norm(middle)
        self._depthwise_conv = StaticSameConv(
            middle, middle, spec.kernel, spec.stride, size=spec.size, groups=middle
        )
        self._bn1 = _batch_norm(middle)
        self._se_reduce = nn.Conv2d(middle, squeezed, 1)
        self._se_expand = nn.Conv2d(squeezed, middle, 1)
        self._project_conv = nn.Conv2d(middle, spec.outputs, 1, bias=False)
        self._bn2 = _batch_norm(spec.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [N, inputs, H, W] to [N, outputs, H', W']."""
        y = functional.silu(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.silu(self._bn1(self._depthwise_conv(y)))
        excited = functional.silu(self._se_reduce(y.mean((2, 3), keepdim=True)))
        y = torch.sigmoid(self._se_expand(excited)) * y
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNet(nn.Module):
    """The trunk of an EfficientNet.

    Args:
        variant: `b0` or `b4`.
        num_blocks: only so many of the first blocks exist; None for all.
        has_head: whether the classifier's layers exist. They are never run, but a checkpoint of a
            network that kept them holds their weights.

    Raises:
        ValueError: the variant is not known, or has not so many blocks.
    """

    def __init__(
        self, variant: str, *, num_blocks: int | None = None, has_head: bool = False
    ) -> None:
        super().__init__()
        specs = block_specs(variant)
        count = len(specs) if num_blocks is None else num_blocks
        if not 1 <= count <= len(specs):
            raise ValueError(
                f"num_blocks is {num_blocks}, expected 1..{len(specs)} for EfficientNet {variant}"
            )
        scale = VARIANTS[variant]
        self._conv_stem = StaticSameConv(3, specs[0].inputs, 3, 2, size=scale.image_size)
        self._bn0 = _batch_norm(specs[0].inputs)
        self._blocks = nn.ModuleList([Block(spec) for spec in specs[:count]])
        self.channels = tuple(spec.outputs for spec in specs[:count])
        """Of each block's output."""
        if has_head:
            width = scale.channels(HEAD_CHANNELS)
            self._conv_head = nn.Conv2d(specs[-1].outputs, width, 1, bias=False)
            self._bn1 = _batch_norm(width)
            self._fc = nn.Linear(width, CLASSES)

    def forward(self, images: torch.Tensor, taps: Sequence[int]) -> list[torch.Tensor]:
        """Runs the blocks as far as they are needed.

        Args:
            images: float [N, 3, H, W], normalised as the network was trained.
            taps: blocks whose outputs are wanted, ascending, from 0.

        Returns:
            For each tap, float [N, channels[tap], H', W'].
        """
        x = functional.silu(self._bn0(self._conv_stem(images)))
        tapped = []
        for index, block in enumerate(self._blocks[: taps[-1] + 1]):
            x = block(x)
            if index in taps:
                tapped.append(x)
        return tapped


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)
