"""The image encoder: the first blocks of EfficientNet-Lite0, to stride 16.

Architecture: Tan and Le, ICML 2019, and its Lite variants (ReLU6, no squeeze and excitation). The
weights come from a trained ONNX file in which BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

# expansion, channels, kernel, stride of each block
BLOCKS = (
    (1, 16, 3, 1),
    (6, 24, 3, 2),
    (6, 24, 3, 1),
    (6, 40, 5, 2),
    (6, 40, 5, 1),
    (6, 80, 3, 2),
    (6, 80, 3, 1),
    (6, 80, 3, 1),
)
STEM_CHANNELS = 32
STRIDE_8_BLOCK = 4
FROZEN_BLOCKS = 3
"""The stem and the blocks up to stride 4 keep their weights: they know real images."""


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project; added to the input where the shape stays."""

    def __init__(self, inputs: int, expansion: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = nn.Conv2d(inputs, middle, 1) if expansion != 1 else None
        self.depthwise = nn.Conv2d(
            middle, middle, kernel, stride, padding=kernel // 2, groups=middle
        )
        self.project = nn.Conv2d(middle, outputs, 1)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y = x if self.expand is None else nn.functional.relu6(self.expand(x))
        y = self.project(nn.functional.relu6(self.depthwise(y)))
        return x + y if self.skips else y


class ImageEncoder(nn.Module):
    """RGB images, (value - 127) / 128, to features of stride 8 (40 channels) and 16 (80)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, 2, padding=1)
        blocks, channels = [], STEM_CHANNELS
        for expansion, outputs, kernel, stride in BLOCKS:
            blocks.append(InvertedResidual(channels, expansion, outputs, kernel, stride))
            channels = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float [N, 3, H, W] to [N, 40, H/8, W/8] and [N, 80, H/16, W/16]."""
        with torch.no_grad():
            x = nn.functional.relu6(self.stem(images))
            for block in self.blocks[:FROZEN_BLOCKS]:
                x = block(x)
        for index in range(FROZEN_BLOCKS, len(self.blocks)):
            x = self.blocks[index](x)
            if index == STRIDE_8_BLOCK:
                eighth = x
        return eighth, x

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Of the layers that training leaves alone."""
        return [
            parameter
            for module in (self.stem, *self.blocks[:FROZEN_BLOCKS])
            for parameter in module.parameters()
        ]

    def load_onnx(self, path: Path) -> None:
        """Takes the weights of a trained EfficientNet-Lite0 whose Convs come in their usual order.

        Raises:
            ValueError: a Conv has another shape.
        """
        graph = onnx.load(str(path)).graph
        weights = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        convs = [node for node in graph.node if node.op_type == "Conv"]
        ours = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        for node, module in zip(convs, ours, strict=False):
            for name, parameter in ((node.input[1], module.weight), (node.input[2], module.bias)):
                value = torch.from_numpy(weights[name].copy())
                if parameter is None or value.shape != parameter.shape:
                    raise ValueError(
                        f"{path}: Conv '{node.name}' has weights {tuple(value.shape)}, expected "
                        f"{None if parameter is None else tuple(parameter.shape)}: this is not "
                        "EfficientNet-Lite0"
                    )
                parameter.data.copy_(value)
