"""An engine of VidEoMT: all products in FP16, every attention fused."""

import pytest

from l2g.artifacts.sidecar import read_sidecar
from l2g.engines.build import build_engine
from l2g.engines.builder import BuildOptions
from l2g.export.exporter import ExportOptions, export
from l2g.modeling.videomt.model import Videomt
from l2g.runtime.backends.tensorrt.library import installed_version
from tests.modeling.videomt.small import network


@pytest.mark.skipif(installed_version("tensorrt-rtx") is None, reason="TensorRT-RTX is not installed")
def test_fp16_throughout_and_attention_fused(tmp_path):
    """Heads of 64 channels, as every public ViT has: that is what kernels of fused attention are made for."""
    model = Videomt(network(hidden_size=128, num_attention_heads=2, num_hidden_layers=3)).eval()
    export(model, tmp_path / "model.onnx", ExportOptions(target="tensorrt", precision="fp16"))
    path = tmp_path / "model.engine"
    options = BuildOptions("tensorrt-rtx", max_streams=2, compute_capabilities=("8.9",))
    build_engine(tmp_path / "model.onnx", path, options, cache=tmp_path, progress=False)
    sidecar = read_sidecar(path)
    assert (sidecar.contract.scoring, sidecar.contract.resize) == ("softmax", "squash")
    audit = sidecar.engine.audit
    assert audit.share >= 0.95
    assert audit.fused_attention == 3
