"""VidEoMT's graph is the model: verified, any number of streams, resets, islands by name."""

import numpy as np
import onnx
import pytest
import torch

from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.errors import ExportError
from l2g.export.exporter import ExportOptions, export
from l2g.export.graph.blocks import block_of
from l2g.export.verification.rollouts import rollouts
from l2g.export.verification.verify import verify
from l2g.modeling.videomt.model import VideomtState
from tests.export.models import run, session
from tests.exported_videomt import videomt_graph
from tests.modeling.videomt.small import moving_frames, small_videomt


def contract_in(path):
    return read_contract(read_model(path), path)


def test_the_contract_in_the_file_is_version_2():
    contract = contract_in(videomt_graph())
    assert contract.schema_version == 2
    assert '"schema_version": 2' in contract.to_json()
    assert (contract.scoring, contract.resize, [pair.output for pair in contract.states]) == (
        "softmax",
        "squash",
        ["queries"],
    )
    assert contract.build.verification.ties == 0


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_rollout_of_many_streams(target):
    """Three streams of eight frames from their own state, one of which starts again; NaN where there is no past."""
    model, graph = small_videomt(), session(videomt_graph(target=target))
    clip = moving_frames(model, streams=3, frames=8, seed=4)
    prior = np.full((3, 11, 48), np.nan, np.float32)
    state = None
    for time in range(8):
        valid = np.ones((3, 1), np.float32) if time else np.zeros((3, 1), np.float32)
        if time == 5:
            valid[1], prior[1] = 0, np.nan
            state = VideomtState(state.queries, torch.from_numpy(valid))
        with torch.no_grad():
            output, state = model.step(torch.from_numpy(clip[:, time]), state)
        prior, logits, masks = run(graph, (clip[:, time], prior, valid))
        np.testing.assert_allclose(prior, state.queries.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(logits, output.logits.numpy(), rtol=0, atol=1e-4)
        spread = float(output.mask_logits.std())
        np.testing.assert_allclose(masks, output.mask_logits.numpy(), rtol=0, atol=1e-3 * spread)


def test_detections_are_chosen_in_the_graph():
    model = small_videomt()
    clip = moving_frames(model, streams=2, frames=1, seed=4)[:, 0]
    prior, valid = np.zeros((2, 11, 48), np.float32), np.zeros((2, 1), np.float32)
    _, scores, labels, slots, masks = run(session(videomt_graph(top_k=4)), (clip, prior, valid))
    with torch.no_grad():
        output, _ = model.step(torch.from_numpy(clip))
    probabilities = output.logits.softmax(-1)[..., :-1].numpy()
    for row in range(2):
        best = probabilities[row].max(1)
        expected = np.argsort(-best)[:4]
        assert slots[row].tolist() == expected.tolist()
        np.testing.assert_allclose(scores[row], best[expected], atol=1e-5)
        assert labels[row].tolist() == probabilities[row, expected].argmax(1).tolist()
        wanted = output.mask_logits[row, expected].sigmoid().numpy() * 255
        assert np.abs(masks[row] - wanted).max() <= 1


def test_a_wrong_weight_is_found_out(tmp_path):
    graph = onnx.load(videomt_graph())
    weight = next(tensor for tensor in graph.graph.initializer if list(tensor.dims) == [48, 48])
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    contract = contract_in(videomt_graph())
    steps = list(rollouts(small_videomt(), contract))
    with pytest.raises(
        ExportError, match=r"the exported graph differs from the model: output 'queries' by .*, or leave"
    ):
        verify(graph.SerializeToString(), contract, steps)


def test_tolerances_grow_with_what_has_no_norm():
    """A trained ViT's tokens may be hundreds; the size of each output is its unit, but never less than 1."""
    model, contract = small_videomt(), contract_in(videomt_graph())
    (step, *_) = rollouts(model, contract)
    assert step.size("queries") == max(1.0, float(step.state.queries.square().mean().sqrt()))
    assert step.size("scores") == 1


def test_fp16_keeps_scores_and_normalisation_in_float32():
    graph = onnx.load(videomt_graph(precision="fp16", target="tensorrt"))
    half = {
        value.name for value in graph.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    products = [node for node in graph.graph.node if node.op_type in ("MatMul", "Conv", "ConvTranspose")]
    wide = [block_of(node) for node in products if node.output[0] not in half]
    assert wide == ["class_predictor"]
    assert all(node.output[0] in half for node in graph.graph.node if node.op_type == "Softmax")
    verification = contract_in(videomt_graph(precision="fp16", target="tensorrt")).build.verification
    assert all(verification.errors[name] <= verification.limits[name] for name in verification.errors)


def test_what_the_family_cannot_do_is_refused(tmp_path):
    with pytest.raises(ExportError, match="canvas 96x128 found, 96x96 expected"):
        export(small_videomt(), tmp_path / "model.onnx", ExportOptions(width=128))
    with pytest.raises(ExportError, match="the model has no deformable attention"):
        export(small_videomt(), tmp_path / "model.onnx", ExportOptions(lowering="plugin", target="tensorrt"))
    assert list(tmp_path.iterdir()) == []
