"""Every preset and every switch of ModelConfig builds, steps, and does what it says."""

import pytest
import torch

from l2g import FrameState, build_model
from l2g.config import BackboneConfig, ModelConfig
from l2g.errors import ConfigError, ContractError
from l2g.modeling.local2global import FrameOutput
from tests.modeling.small import CONFIG, frames, small_model

SWITCHES = {
    "as it is": {},
    "resnet 18": {"backbone": BackboneConfig.resnet(18, stem_channels=8, width=8, out_channels=8)},
    "resnet 34": {"backbone": BackboneConfig.resnet(34, stem_channels=8, width=8, out_channels=8)},
    "resnet 50": {"backbone": BackboneConfig.resnet(50, stem_channels=16, width=8, out_channels=32)},
    "resnet 101": {"backbone": BackboneConfig.resnet(101, stem_channels=8, width=4, out_channels=16)},
    "another inner width": {"backbone": {"width": 12}},
    "no aligner": {"aligner": None},
    "aligner of one layer": {"aligner": {"layers": 1}},
    "aligner ffn 512": {"aligner": {"ffn_dim": 512}},
    "aligner ffn 2048": {"aligner": {"ffn_dim": 2048}},
    "dynamic local positions": {"aligner": {"local_position": "dynamic"}},
    "no local positions": {"aligner": {"local_position": "none"}},
    "no trajectory": {"trajectory": False},
    "no trajectory, no aligner": {"trajectory": False, "aligner": None},
    "no trajectory, dynamic": {"trajectory": False, "aligner": {"local_position": "dynamic"}},
    "bitmask": {"box_init": "bitmask"},
    "the head's boxes go on": {"state_box": "head"},
    "marked slots": {"slot_marks": 0.03},
    "seven queries": {"num_queries": 7},
    "one query": {"num_queries": 1},
    "one class": {"num_classes": 1},
    "forty classes": {"num_classes": 40},
    "hidden width 32": {"hidden_dim": 32},
    "hidden width 128": {"hidden_dim": 128, "num_heads": 8},
    "hidden width 256": {"hidden_dim": 256, "num_heads": 8},
    "one head": {"num_heads": 1},
    "encoder of three layers": {"encoder": {"layers": 3, "ffn_dim": 24, "mask_dim": 8}},
    "six levels": {"encoder": {"levels": 6}},
    "levels from the finest": {"encoder": {"feature_order": "high2low"}, "box_init": "no"},
    "decoder of one layer": {"decoder": {"layers": 1}},
    "decoder of four layers": {"decoder": {"layers": 4, "ffn_dim": 24}},
}


def check_frame(config: ModelConfig, output: FrameOutput, state: FrameState, size: tuple[int, int, int]) -> None:
    batch, height, width = size
    n = config.num_queries
    assert output.logits.shape == (batch, n, config.num_classes)
    assert output.mask_logits.shape == (batch, n, height // 4, width // 4)
    assert output.boxes.shape == state.boxes.shape == (batch, n, 4)
    assert state.queries.shape == (batch, n, config.hidden_dim)
    assert state.valid.shape == (batch, 1)
    assert state.valid.eq(1).all()
    for tensor in (output.logits, output.boxes, output.mask_logits, state.queries, state.boxes):
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
    for boxes in (output.boxes, state.boxes):
        assert boxes.ge(0).all()
        assert boxes.le(1).all()


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_steps(name):
    model = small_model(**SWITCHES[name])
    with torch.inference_mode():
        output, state = model.step(frames(2, seed=1))
        check_frame(model.config, output, state, (2, 64, 96))
        second, state = model(frames(2, seed=2), state)
    check_frame(model.config, second, state, (2, 64, 96))
    assert not torch.equal(output.logits, second.logits)


@pytest.mark.parametrize("preset", ["l2g_tiny", "l2g_r50", "maskdino_r50"])
def test_presets_step(preset):
    torch.manual_seed(0)
    model = build_model(preset)
    height, width = 96, 160
    with torch.inference_mode():
        output, state = model.step(frames(1, height=height, width=width))
        output, state = model.step(frames(1, seed=1, height=height, width=width), state)
    check_frame(model.config, output, state, (1, height, width))
    assert not model.training


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (96, 32), (160, 64)])
def test_any_multiple_of_32_is_a_canvas(size):
    model = small_model(num_queries=5)
    with torch.inference_mode():
        output, state = model.step(frames(1, height=size[0], width=size[1]))
        output, state = model.step(frames(1, 1, *size), state)
    check_frame(model.config, output, state, (1, *size))


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (torch.zeros(1, 60, 96, 3, dtype=torch.uint8), "[1, 60, 96, 3]"),
        (torch.zeros(1, 3, 64, 96, dtype=torch.uint8), "[1, 3, 64, 96]"),
        (torch.zeros(64, 96, 3, dtype=torch.uint8), "[64, 96, 3]"),
        (torch.zeros(1, 64, 96, 3), "torch.float32"),
    ],
)
def test_wrong_frames_are_one_clear_error(bad, found):
    with pytest.raises(ContractError, match=r"multiples of 32") as error:
        small_model().step(bad)
    assert found in str(error.value)


def test_too_small_a_canvas_for_its_queries():
    with pytest.raises(ConfigError, match="300 queries asked of a canvas with 128 tokens"):
        small_model(num_queries=300).step(frames(1))


def step_with_priors(model, boxes):
    torch.manual_seed(5)
    prior = FrameState(torch.randn(1, CONFIG.num_queries, CONFIG.hidden_dim), boxes, torch.ones(1, 1))
    with torch.inference_mode():
        return model.step(frames(1), prior)[0]


@pytest.mark.parametrize("aligner", [CONFIG.aligner, None])
def test_trajectory_says_whether_prior_boxes_count(aligner):
    here, there = torch.full((1, 10, 4), 0.3), torch.full((1, 10, 4), 0.6)
    on = small_model(aligner=aligner)
    assert (step_with_priors(on, here).logits - step_with_priors(on, there).logits).abs().max() > 1e-3
    off = small_model(aligner=aligner, trajectory=False)
    assert torch.equal(step_with_priors(off, here).logits, step_with_priors(off, there).logits)
    with torch.no_grad():
        before = step_with_priors(off, here).logits
        off.slot_boxes.add_(1)
    assert (step_with_priors(off, here).logits - before).abs().max() > 1e-3


def test_without_trajectory_the_learned_boxes_are_the_prior():
    off = small_model(trajectory=False)
    on = small_model()
    on.load_state_dict({name: value for name, value in off.state_dict().items() if name != "slot_boxes"})
    learned = off.slot_boxes.detach().sigmoid()[None]
    expected = step_with_priors(on, learned)
    found = step_with_priors(off, torch.full((1, 10, 4), 0.3))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.boxes, expected.boxes)


def test_box_init_reaches_state_and_first_reference():
    """A canvas with a box one pixel larger on each axis, in the next state and in the local boxes."""
    plain, bitmask = small_model(), small_model(box_init="bitmask")
    with torch.inference_mode():
        memory = plain.encode(frames(1))
        local = plain.decode(memory).local.boxes, bitmask.decode(memory).local.boxes
    wider = local[1][..., 2:] - local[0][..., 2:]
    occupied = local[1][..., 2] > 0
    assert occupied.any()
    torch.testing.assert_close(wider[occupied], torch.tensor([4 / 96, 4 / 64]).expand_as(wider[occupied]))


def test_slots_carry_queries_not_ranks():
    """With a prior, permuting the slots permutes the answer: a slot is its query, not its position in the list."""
    model = small_model()
    with torch.inference_mode():
        _, state = model.step(frames(1, seed=3))
        order = torch.randperm(CONFIG.num_queries, generator=torch.Generator().manual_seed(1))
        shuffled = FrameState(state.queries[:, order], state.boxes[:, order], state.valid)
        plain, _ = model.step(frames(1, seed=4), state)
        permuted, _ = model.step(frames(1, seed=4), shuffled)
    torch.testing.assert_close(permuted.logits, plain.logits[:, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(permuted.mask_logits, plain.mask_logits[:, order], atol=1e-4, rtol=0)
