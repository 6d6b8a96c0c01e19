"""`l2g verify --library openvino`: a graph as that library runs it, beside ONNX Runtime."""

import pytest

from l2g.cli.making.verify import main
from l2g.engines.verification import LIMITS, DisagreementError, verify_graph
from l2g.errors import EngineError
from tests.exported import small_graph

pytest.importorskip("openvino")


def test_a_float32_graph_has_its_numbers_in_openvino():
    record = verify_graph(small_graph())
    assert record.limits == LIMITS["fp32"]
    assert record.found.score < 1e-5
    assert record.found.queries < 1e-4
    assert record.found.slots == 0
    assert (record.status, record.gpu, record.precision) == ("verified", "OpenVINO CPU", "fp32")


def test_the_precision_that_openvino_would_take_by_itself_is_found_out(capsys):
    """Left alone it computes a float32 graph in BF16 where the processor can."""
    from l2g.runtime.backends.openvino.backend import native_precisions

    if "bf16" not in native_precisions():
        pytest.skip("this processor has no BF16")
    with pytest.raises(DisagreementError, match="does not give the numbers of its graph"):
        verify_graph(small_graph(), precision="bf16")
    assert main(["--library", "openvino", "--onnx", str(small_graph()), "--precision", "bf16", "--quiet"]) == 1
    assert "score" in capsys.readouterr().err


def test_a_graph_with_other_outputs_is_no_reference():
    with pytest.raises(EngineError, match="other inputs or outputs"):
        verify_graph(small_graph(), reference=small_graph(top_k=20))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --engine with a file that l2g build wrote, or --library openvino"),
        (["--engine", "x.engine", "--library", "openvino"], "one of the two"),
        (["--engine", "x.engine", "--precision", "bf16"], "--precision given"),
    ],
)
def test_what_does_not_go_together_is_said(options, said, capsys):
    assert main(["--onnx", "x.onnx", *options]) == 2
    assert said in capsys.readouterr().err
