"""An engine of a Swin: all products in FP16, every attention within windows fused, shifted or not."""

import pytest

from l2g.artifacts.sidecar import read_sidecar
from l2g.engines.build import build_engine
from l2g.engines.builder import BuildOptions
from l2g.runtime.backends.tensorrt.library import installed_version
from tests.exported_swin import SWIN, swin_graph, swin_model


@pytest.mark.skipif(installed_version("tensorrt-rtx") is None, reason="TensorRT-RTX is not installed")
def test_fp16_throughout_and_windows_fused(tmp_path):
    """With one stream and eight it is the same; of a stage with one head TensorRT-RTX 1.7 does not fuse them."""
    path, config = tmp_path / "model.engine", swin_model().config
    options = BuildOptions("tensorrt-rtx", max_streams=2, compute_capabilities=("8.9",))
    build_engine(swin_graph("fp16", "tensorrt"), path, options, cache=tmp_path, progress=False)
    audit = read_sidecar(path).engine.audit
    assert audit.share >= 0.95
    # Two attentions a layer of the aligner, one of the decoder.
    assert audit.fused_attention == sum(SWIN.depths) + 2 * config.aligner.layers + config.decoder.layers
