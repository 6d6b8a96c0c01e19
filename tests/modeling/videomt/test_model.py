"""VidEoMT frame by frame is the clip's forward of `transformers`."""

import numpy as np
import pytest
import torch

from l2g.contract import GraphContract
from l2g.errors import ConfigError, ContractError
from l2g.modeling.videomt.model import Videomt, VideomtState
from tests.modeling.videomt.small import NAMES, moving_frames, network, public_forward, public_queries, small_videomt

# The last two are held to the same numbers without having been looked at while the adapter was written.
CONFIGURATIONS = {
    "small": {},
    "swiglu": {"use_swiglu_ffn": True, "mlp_ratio": 3},
    "no registers, all layers with queries": {"num_register_tokens": 0, "num_blocks": 4, "num_hidden_layers": 4},
    "patches of 8": {"patch_size": 8, "num_upscale_blocks": 1, "image_size": 64},
    "patches of 14": {"patch_size": 14, "image_size": 98},
    "no upscaling": {"num_upscale_blocks": 0},
    "ViT-S": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_blocks": 3,
        "num_queries": 200,
        "num_register_tokens": 4,
        "image_size": 160,
    },
    "another": {
        "hidden_size": 60,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "num_blocks": 1,
        "num_queries": 7,
        "num_register_tokens": 2,
        "image_size": 112,
        "hidden_act": "relu",
        "mlp_ratio": 2,
        "layerscale_value": 0.3,
    },
    "a third": {
        "hidden_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "num_blocks": 3,
        "num_queries": 5,
        "num_register_tokens": 1,
        "patch_size": 12,
        "image_size": 84,
        "num_upscale_blocks": 3,
        "hidden_act": "silu",
        "layer_norm_eps": 1e-4,
        "use_swiglu_ffn": True,
    },
}


def run(model, clip):
    """(outputs, states) of every frame."""
    state, found = None, []
    with torch.no_grad():
        for time in range(clip.shape[1]):
            output, state = model.step(torch.from_numpy(clip[:, time]), state)
            found.append((output, state))
    return found


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_frame_by_frame_is_the_clip(changes):
    model = Videomt(network(seed=1, **changes)).eval()
    clip = moving_frames(model, streams=2, frames=8)
    logits, masks = public_forward(model, clip)
    spread = masks.std()
    for time, (output, _) in enumerate(run(model, clip)):
        np.testing.assert_allclose(output.logits.numpy(), logits[time], rtol=0, atol=1e-4)
        np.testing.assert_allclose(output.mask_logits.numpy(), masks[time], rtol=0, atol=1e-3 * spread)


def test_the_state_is_what_the_public_forward_carries():
    model = small_videomt()
    clip = moving_frames(model, streams=2, frames=8)
    carried = public_queries(model, clip)
    states = [state.queries.numpy() for _, state in run(model, clip)]
    assert len(carried) == 7
    for expected, found in zip(carried, states[:-1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_history_matters():
    """Without it the test above would pass for a model that carries nothing."""
    model = small_videomt()
    clip = moving_frames(model, streams=1, frames=3)
    with torch.no_grad():
        alone, _ = model.step(torch.from_numpy(clip[:, 2]))
    carried, _ = run(model, clip)[-1]
    assert (alone.logits - carried.logits).abs().max() > 1e-2


@pytest.mark.parametrize("content", [0.0, np.nan, 1e30, -np.inf])
def test_a_stream_without_a_past_is_not_touched_by_what_the_prior_holds(content):
    model = small_videomt()
    clip = torch.from_numpy(moving_frames(model, streams=2, frames=2))
    with torch.no_grad():
        fresh, _ = model.step(clip[:, 1])
        _, state = model.step(clip[:, 0])
        running, _ = model.step(clip[:, 1], state)
        queries = state.queries.clone()
        queries[0] = content
        found, after = model.step(clip[:, 1], VideomtState(queries, torch.tensor([[0.0], [1.0]])))
    torch.testing.assert_close(found.logits[0], fresh.logits[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.logits[1], running.logits[1], rtol=0, atol=1e-5)
    assert torch.isfinite(after.queries).all()
    assert after.valid.tolist() == [[1.0], [1.0]]


def test_the_masks_size_stands_in_the_contract():
    model = Videomt(network(patch_size=14, image_size=98)).eval()
    contract = model.contract()
    assert (contract.schema_version, contract.mask_size) == (4, (28, 28))
    with torch.no_grad():
        output, _ = model.step(torch.zeros(1, 98, 98, 3, dtype=torch.uint8))
    assert output.mask_logits.shape[2:] == (28, 28)


def test_the_contract_describes_it():
    model = small_videomt()
    contract = model.contract()
    assert (contract.scoring, contract.resize, contract.association) == ("softmax", "squash", "propagate")
    assert contract.class_names == NAMES
    assert [spec.name for spec in contract.inputs] == ["frames", "prior_queries", "prior_valid"]
    assert {spec.name: spec.shape for spec in contract.outputs} == {
        "queries": ("B", 11, 48),
        "logits": ("B", 11, 7),
        "mask_logits": ("B", 11, 24, 24),
    }
    assert GraphContract.from_json(contract.to_json()) == contract
    assert model.contract(top_k=50).output("slots").shape == ("B", 11)
    assert contract.model["hidden_size"] == 48


def test_other_sizes_are_refused():
    model = small_videomt()
    with pytest.raises(ConfigError, match=r"canvas 96x128 found, 96x96 expected: VidEoMT has a learned position"):
        model.contract((96, 128))
    with pytest.raises(ContractError, match=r"expected torch.uint8 \[B, 96, 96, 3\]"):
        model.step(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(ContractError, match=r"frames are torch.float32"):
        model.step(torch.zeros(1, 96, 96, 3))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_blocks": 9}, "num_blocks 9 found"),
        ({"image_size": 100}, "image_size 100"),
        ({"num_channels": 4}, "num_channels 4 found, 3 expected"),
    ],
)
def test_networks_that_the_contract_cannot_describe_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        Videomt(network(**changes))


def test_class_names_are_as_many_as_classes():
    with pytest.raises(ConfigError, match="2 class names for 6 classes"):
        Videomt(network(), ("one", "two"))
