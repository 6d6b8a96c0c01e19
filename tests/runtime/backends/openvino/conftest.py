"""Graphs that the tests of OpenVINO share: the small model in BF16, and in eight bits."""

import dataclasses

import pytest


@pytest.fixture(scope="session")
def bf16_graph(tmp_path_factory):
    """The small model in BF16 with its islands, and the float32 graph that it was made from."""
    from l2g.artifacts.onnx_file import with_contract, with_sum
    from l2g.export.exporter import ExportOptions, build_graph, contract_of, reduced_graph
    from l2g.provenance import BuildFacts
    from tests.exported import exported_model

    folder = tmp_path_factory.mktemp("bf16")
    options = ExportOptions(opset=20)
    contract = contract_of(exported_model(), options)
    float32 = build_graph(exported_model(), contract, options)
    paths = {}
    for precision, graph in (("fp32", float32), ("bf16", reduced_graph(float32, "bf16"))):
        build = with_sum(BuildFacts(precision=precision), graph)
        paths[precision] = folder / f"{precision}.onnx"
        paths[precision].write_bytes(with_contract(graph, dataclasses.replace(contract, build=build)))
    return paths


@pytest.fixture(scope="session")
def int8_graphs(bf16_graph, tmp_path_factory):
    """The small model with its default set on eight bits: FP32 around it, and BF16. The ranges are anything."""
    from l2g.artifacts.onnx_file import read_contract, read_model, with_contract, with_sum
    from l2g.calibration.placement import LAYOUTS, quantise
    from l2g.calibration.ranges import Interval
    from l2g.calibration.units import take_inventory
    from l2g.export.exporter import reduced_graph
    from l2g.provenance import BuildFacts

    folder = tmp_path_factory.mktemp("int8")
    float32 = read_model(bf16_graph["fp32"])
    contract = read_contract(float32, bf16_graph["fp32"])
    inventory = take_inventory(float32)
    nodes = inventory.nodes(inventory.default)
    graph = quantise(float32, nodes, lambda tensor: Interval(-4.0, 4.0), LAYOUTS["openvino"])
    del graph.metadata_props[:]
    content = graph.SerializeToString()
    paths = {}
    for scales, data in (("fp32", content), ("bf16", reduced_graph(content, "bf16"))):
        build = with_sum(BuildFacts(precision="int8"), data)
        paths[scales] = folder / f"{scales}.onnx"
        paths[scales].write_bytes(with_contract(data, dataclasses.replace(contract, build=build)))
    return paths, inventory.share(inventory.default)
