"""VidEoMT with a DINOv3 backbone. `transformers` has none; it has EoMT with that backbone, a model of one picture, and
that is the truth here: its learned queries are set, before each frame, to what VidEoMT makes of the frame before."""

import numpy as np
import pytest
import torch
from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

import l2g
from l2g.errors import CheckpointError
from l2g.export.exporter import ExportOptions, export
from l2g.modeling.videomt.model import Videomt
from tests.export.models import run, session
from tests.modeling.videomt.small import NAMES, dinov3_authors_tensors, dinov3_network, moving_frames

CONFIGURATIONS = {
    "small": {},
    "queries handed on normed": {"norm_queries": True},
    "patches of 14, gated": {"patch_size": 14, "image_size": 98, "num_upscale_blocks": 1, "use_gated_mlp": True},
    "no registers, biases": {"num_register_tokens": 0, "num_blocks": 4, "key_bias": True, "mlp_bias": False},
}


def picture_model(network):
    """The public model of one picture with the weights of `network`, without its attention masks of training."""
    settings = network.config.to_dict()
    settings = {name: value for name, value in settings.items() if name not in ("model_type", "norm_queries")}
    public = EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**settings)).eval()
    found = public.load_state_dict(network.state_dict(), strict=False)
    assert (found.missing_keys, len(found.unexpected_keys)) == ([], 2)  # the query updater's
    public.attn_mask_probs.zero_()
    return public


@torch.no_grad()
def public_rollout(network, clip):
    """logits and mask logits of each frame of one stream, uint8 [T, H, W, 3]."""
    public, tokens = picture_model(network), []
    public.layernorm.register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
    mean, std = (torch.tensor(values) * 255 for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for frame in torch.from_numpy(clip).float():
        found = public(pixel_values=((frame - mean) / std).permute(2, 0, 1)[None])
        yield found.class_queries_logits[0].numpy(), found.masks_queries_logits[0].numpy()
        after = found.last_hidden_state if network.config.norm_queries else tokens[-1]
        handed_on = network.query_updater(after[0, : network.config.num_queries]) + network.query.weight
        public.query.weight.copy_(handed_on)


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_frame_by_frame_is_the_public_model_of_pictures(changes):
    network = dinov3_network(seed=1, **changes)
    model = Videomt(network).eval()
    clip, state = moving_frames(model, streams=2, frames=5), None
    for frames, *expected in zip(clip.swapaxes(0, 1), *(public_rollout(network, one) for one in clip), strict=True):
        with torch.no_grad():
            output, state = model.step(torch.from_numpy(frames), state)
        for stream, (logits, masks) in enumerate(expected):
            np.testing.assert_allclose(output.logits[stream].numpy(), logits, rtol=0, atol=1e-4)
            np.testing.assert_allclose(output.mask_logits[stream].numpy(), masks, rtol=0, atol=1e-3 * masks.std())


def test_saved_and_loaded_again(tmp_path):
    model = Videomt(dinov3_network(seed=2, norm_queries=True)).eval()
    l2g.save_checkpoint(model, tmp_path / "model")
    again = l2g.load_checkpoint(tmp_path / "model")
    told = ("input_size", "mask_size", "num_queries", "hidden_dim", "class_names", "normalisation")
    assert [getattr(again.config, name) for name in told] == [getattr(model.config, name) for name in told]
    assert again.network.config.norm_queries
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(("classes", "canvas", "normed"), [(6, 640, False), (124, 1280, True)])
def test_the_authors_own_file(tmp_path, classes, canvas, normed):
    """What no tensor tells is the published configurations'."""
    labels = {number: f"class {number}" for number in range(classes)}
    network = dinov3_network(seed=3, hidden_size=64, num_attention_heads=1, id2label=labels)
    torch.save({"model": dinov3_authors_tensors(network)}, tmp_path / "yt_2019_dinov3.pth")
    model = l2g.load_checkpoint(tmp_path / "yt_2019_dinov3.pth", class_names=tuple(labels.values()))
    assert (model.config.input_size, model.network.config.norm_queries) == ((canvas, canvas), normed)
    for name in ("num_hidden_layers", "num_blocks", "intermediate_size", "num_register_tokens", "layer_norm_eps"):
        assert getattr(model.network.config, name) == getattr(network.config, name), name
    for name, tensor in network.state_dict().items():
        if not name.startswith("criterion."):
            torch.testing.assert_close(model.network.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_model_of_pictures_is_no_videomt(tmp_path):
    picture_model(dinov3_network()).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="a model of type 'eomt_dinov3', expected videomt"):
        l2g.load_checkpoint(tmp_path)


def test_its_graph_is_the_model(tmp_path):
    """The export holds it to PyTorch over rollouts; here three streams of another clip, and detections."""
    model = Videomt(dinov3_network(seed=1, patch_size=14, image_size=98, id2label=dict(enumerate(NAMES)))).eval()
    export(model, tmp_path / "model.onnx", ExportOptions())
    clip, state, prior = moving_frames(model, streams=3, frames=4, seed=4), None, np.full((3, 11, 48), np.nan)
    graph = session(tmp_path / "model.onnx")
    for time in range(4):
        with torch.no_grad():
            output, state = model.step(torch.from_numpy(clip[:, time]), state)
        valid = np.full((3, 1), float(time > 0), np.float32)
        prior, logits, masks = run(graph, (clip[:, time], prior.astype(np.float32), valid))
        assert masks.shape[2:] == (28, 28)
        np.testing.assert_allclose(prior, state.queries.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(logits, output.logits.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(masks, output.mask_logits.numpy(), rtol=0, atol=1e-3 * masks.std())
