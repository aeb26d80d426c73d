"""TwinLiteNet's two decoders as one chain of grouped 1x1 convolutions.

A transposed convolution with kernel 2 and stride 2 maps each pixel to 2x2 pixels and reads no
neighbour. Three in a row map each pixel to an 8x8 block of its own, so the decoders run at the
encoder's resolution with the position inside the block (dy, dx of each of the three steps) in the
channels, and one transposition at the end lays out the pixels, channel last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from bev_export.graph import GraphEditor

Float32 = NDArray[np.float32]

BLOCK = 8
HEADS = ("drivable_area", "lanes")


@dataclass(frozen=True)
class Step:
    """One transposed convolution with its batch normalisation folded in, and the PRelu after it.

    `weight` float32 [C_in, C_out, 2, 2], `bias` and `slope` float32 [C_out].
    """

    weight: Float32
    bias: Float32
    slope: Float32


def read_head(editor: GraphEditor, output: str) -> tuple[str, list[Step]]:
    """Walks from a head's output up to the encoder.

    Returns:
        The encoder's tensor, and the three steps in order of execution.

    Raises:
        ValueError: the head is not made of three ConvTranspose, BatchNormalization, PRelu triples.
    """
    steps: list[Step] = []
    tensor = output
    for _ in range(3):
        activation = editor.producer(tensor)
        norm = editor.producer(activation.input[0])
        deconv = editor.producer(norm.input[0])
        found = [deconv.op_type, norm.op_type, activation.op_type]
        if found != ["ConvTranspose", "BatchNormalization", "PRelu"] or len(deconv.input) != 2:
            raise ValueError(
                f"head '{output}' holds {found}: this is not the TwinLiteNet that was expected"
            )
        gamma, beta, mean, variance = (
            editor.weights[name].astype(np.float64) for name in norm.input[1:]
        )
        epsilon = next(item.f for item in norm.attribute if item.name == "epsilon")
        scale = gamma / np.sqrt(variance + epsilon)
        weight = editor.weights[deconv.input[1]] * scale[None, :, None, None]
        if weight.shape[2:] != (2, 2):
            raise ValueError(f"head '{output}' has a kernel of {weight.shape[2:]}, expected 2x2")
        slope = editor.weights[activation.input[1]].ravel()
        steps.insert(
            0, Step(weight.astype(np.float32), (beta - mean * scale).astype(np.float32), slope)
        )
        tensor = deconv.input[0]
    return tensor, steps


def build_decoder(editor: GraphEditor, feat: str) -> None:
    """Adds nodes that make `feat` float32 [N, H, W, 2]: each pixel's probability of drivable area
    and of lane.

    The probability is the softmax of the head's two logits at index 1, which is the sigmoid of
    their difference.
    """
    sources, heads = zip(*(read_head(editor, output) for output in HEADS), strict=True)
    if sources[0] != sources[1]:
        raise ValueError(f"the heads read {sources}, expected one tensor of the encoder")
    tensor = sources[0]
    for level in range(2):
        tensor = _pointwise(editor, tensor, f"decoder_{level}", heads, level, slice(None))
    logits = [
        _pointwise(editor, tensor, f"logit_{index}", heads, 2, slice(index, index + 1))
        for index in (0, 1)
    ]

    # Channels are now (head, dy0, dx0, dy1, dx1, dy2, dx2); bring them to (dy, dx, head).
    order = np.arange(2 * BLOCK * BLOCK).reshape(2, 2, 2, 2, 2, 2, 2).transpose(1, 3, 5, 2, 4, 6, 0)
    editor.add_weight("decoder_order", order.ravel().astype(np.int64))
    editor.add_weight("block_shape", np.array([0, BLOCK, 2 * BLOCK, 40, 40], np.int64))
    editor.add_weight("feat_shape", np.array([0, 320, 320, 2], np.int64))
    for operator, inputs, output, attributes in (
        ("Sub", [logits[1], logits[0]], "logit", {}),
        ("Sigmoid", ["logit"], "probability", {}),
        ("Gather", ["probability", "decoder_order"], "probability_ordered", {"axis": 1}),
        ("Reshape", ["probability_ordered", "block_shape"], "blocks", {}),
        ("Transpose", ["blocks"], "pixels", {"perm": [0, 3, 1, 4, 2]}),
        ("Reshape", ["pixels", "feat_shape"], feat, {}),
    ):
        editor.nodes.append(helper.make_node(operator, inputs, [output], **attributes))


def _pointwise(
    editor: GraphEditor,
    source: str,
    name: str,
    heads: tuple[list[Step], ...],
    level: int,
    channels: slice,
) -> str:
    """One level of both decoders as a grouped 1x1 Conv and a PRelu; returns the result's name.

    Input channels are (head, positions so far, C_in), output channels (head, positions so far, dy,
    dx, C_out). At level 0 both heads read the same input, so there is one group.
    """
    positions = 4**level
    weights, biases, slopes = [], [], []
    for steps in heads:
        step = steps[level]
        kernel = step.weight[:, channels].transpose(2, 3, 1, 0)  # dy, dx, C_out, C_in
        weights.append(np.tile(kernel.reshape(-1, kernel.shape[-1]), (positions, 1)))
        biases.append(np.tile(step.bias[channels], positions * 4))
        slopes.append(np.tile(step.slope[channels], positions * 4))
    weight = np.concatenate(weights)[:, :, None, None]
    inputs = [
        source,
        editor.add_weight(f"{name}_weight", weight),
        editor.add_weight(f"{name}_bias", np.concatenate(biases)),
    ]
    group = 1 if level == 0 else 2 * positions
    editor.nodes.append(
        helper.make_node("Conv", inputs, [f"{name}_conv"], kernel_shape=[1, 1], group=group)
    )
    slope = editor.add_weight(f"{name}_slope", np.concatenate(slopes)[:, None, None])
    editor.nodes.append(helper.make_node("PRelu", [f"{name}_conv", slope], [name]))
    return name
