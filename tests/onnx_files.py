"""The convolutional net of nets.py as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn


def write_conv_net(
    net: nn.Sequential,
    path: Path,
    *,
    batch: Any = "batch",
    size: Any = 8,
    kind: str = "float",
) -> str:
    """Writes it node by node: batch and size are numbers where the graph fixes them.

    `kind` is "float", "float16" (weights too) or "uint8" (cast to float first).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    element = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
    weights = np.float16 if kind == "float16" else np.float32
    nodes, initializers, last = [], [], "pixels"

    def constant(name: str, values: Any) -> str:
        array = values.detach().numpy().astype(weights)
        initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op}{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    if kind == "uint8":
        last = node("Cast", [last], to=TensorProto.FLOAT)
    for i, layer in enumerate(net):
        if isinstance(layer, nn.Conv2d):
            parts = [constant(f"w{i}", layer.weight), constant(f"b{i}", layer.bias)]
            last = node("Conv", [last, *parts], strides=[2, 2], pads=[1, 1, 1, 1])
        elif isinstance(layer, nn.SiLU):
            last = node("Mul", [last, node("Sigmoid", [last])])
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            last = node("GlobalAveragePool", [last])
        elif isinstance(layer, nn.Flatten):
            last = node("Flatten", [last])
        elif isinstance(layer, nn.Linear):
            parts = [constant(f"w{i}", layer.weight), constant(f"b{i}", layer.bias)]
            features, last = last, node("Gemm", [last, *parts], transB=1)
    channels, classes = net[0].in_channels, net[-1].out_features
    entry = element.get(kind, TensorProto.UINT8)
    out = element.get(kind, TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "conv_net",
        [helper.make_tensor_value_info("pixels", entry, [batch, channels, size, size])],
        [
            helper.make_tensor_value_info(last, out, [batch, classes]),
            helper.make_tensor_value_info(features, out, [batch, net[-1].in_features]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return str(path)


def write_sum(path: Path) -> str:
    """y = a + b, of rows a [R, 3] and b [R, 3]."""
    import onnx
    from onnx import TensorProto, helper

    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "aby"
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "sum", tensors[:2], tensors[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)
