"""What a phase trains, and how the loss follows the state through a clip."""

import itertools

import pytest
import torch

from l2g.modeling.local2global import FrameState
from l2g.training.config import LossConfig
from l2g.training.criterion import Criterion
from l2g.training.denoising import denoising_queries
from l2g.training.objectives import ClipObjective, ImageObjective, StandIns, noisy, phase_one_parameters


@pytest.fixture
def criterion():
    return Criterion(LossConfig(num_points=0))


class Recorder(Criterion):
    """Remembers every assignment and every loss that it was asked for."""

    def __init__(self):
        super().__init__(LossConfig(num_points=0))
        self.slots, self.losses = [], []

    def match(self, prediction, targets, taken=None):
        slots = super().match(prediction, targets, taken)
        if taken is not None or prediction is self.first:
            self.slots.append((targets, slots))
        return slots

    first = None

    def frame(self, prediction, targets, slots, instances):
        self.losses.append(slots)
        return super().frame(prediction, targets, slots, instances)


def test_instances_keep_their_slot_through_a_clip(small_model, batch):
    recorder = Recorder()
    objective = ClipObjective(small_model, recorder, two_stage=False)
    objective(batch)
    tracks = [slots for _, slots in recorder.slots]
    for earlier, later in itertools.pairwise(tracks):
        begun = earlier >= 0
        assert torch.equal(earlier[begun], later[begun])
    for targets, slots in recorder.slots:
        assert (slots[targets.present] >= 0).all()
        for row in slots:
            given = row[row >= 0].tolist()
            assert len(given) == len(set(given))


def test_a_hidden_instance_teaches_its_slot_no_class(small_model, batch, criterion):
    with torch.no_grad():
        output = small_model.decode(small_model.encode(batch.frames[:, 0])).output
    targets = batch.targets(0)
    slots = criterion.match(output, targets)
    one = torch.ones(())
    seen = criterion.frame(output, targets, slots, one)
    hidden = type(targets)(targets.labels, targets.boxes, targets.masks, torch.zeros_like(targets.present))
    gone = criterion.frame(output, hidden, slots, one)
    background = (0.75 * output.logits.sigmoid() ** 2 * torch.nn.functional.softplus(output.logits)).sum() * 4
    assert gone["label"].item() == pytest.approx(background.item(), rel=1e-4)
    assert gone["mask"] == gone["dice"] == gone["box"] == gone["giou"] == 0
    assert seen["mask"] > 0


@pytest.mark.parametrize("supervised", [2, 3])
def test_reduced_supervision_keeps_the_last_frame(small_model, batch, criterion, supervised):
    objective = ClipObjective(small_model, criterion, supervised=supervised)
    draws = []
    for seed in range(20):
        torch.manual_seed(seed)
        draws.append(objective._frames_with_loss(4))
    assert all(len(draw) == supervised and 3 in draw for draw in draws)
    assert len({frozenset(draw) for draw in draws}) == 3  # every choice of the others comes up
    assert torch.isfinite(sum(objective(batch).values()))


def test_the_loss_of_the_last_frame_reaches_the_first(small_model, batch, criterion):
    objective = ClipObjective(small_model, criterion, two_stage=False)
    objective._frames_with_loss = lambda length: {length - 1}
    encoded = []
    handle = small_model.encoder.register_forward_hook(lambda _, __, memory: encoded.append(memory.tokens))
    terms = objective(batch)
    handle.remove()
    gradient = torch.autograd.grad(sum(terms.values()), encoded[0])[0]
    streams = len(batch.frames)
    assert gradient[:streams].abs().sum() > 0  # frame 0 of every stream, through three frames of state


def test_a_window_goes_on_from_the_last_ones_state(small_model, batch, criterion):
    objective = ClipObjective(small_model, criterion, two_stage=False)
    objective(batch.window(0, 2))
    carried, _ = objective._carried
    assert not carried.queries.requires_grad
    assert not carried.boxes.requires_grad
    state = None
    with torch.no_grad():
        for t in range(2):
            state = small_model.decode(small_model.encode(batch.frames[:, t]), state).state
    torch.testing.assert_close(carried.queries, state.queries)
    torch.testing.assert_close(carried.boxes, state.boxes)
    # A first window begins afresh.
    again = ClipObjective(small_model, criterion, two_stage=False)(batch.window(0, 2))
    fresh = objective(batch.window(0, 2))
    assert {name: value.item() for name, value in fresh.items()} == pytest.approx(
        {name: value.item() for name, value in again.items()}, rel=1e-5
    )


def test_a_window_matches_anew_what_is_in_sight(small_model, batch):
    batch.present[0, 0, 2] = False  # in sight in the first window, out of sight when the second begins
    assert batch.present[0, :, 0].sum() >= 2
    recorder = Recorder()
    objective = ClipObjective(small_model, recorder, two_stage=False)
    objective(batch.window(0, 2))
    _, slots = objective._carried
    moved = slots.flip(1).clamp(min=0)  # as if every slot had lost its instance to another one
    moved[0, 0] = slots[0, 0]
    objective._carried = objective._carried[0], moved
    objective(batch.window(2, 2))
    _, after = objective._carried
    assert after[0, 0] == slots[0, 0]  # kept for its return
    with torch.no_grad():
        state = None
        for t in range(3):
            decoded = small_model.decode(small_model.encode(batch.frames[:, t]), state)
            state = decoded.state
    reserved = torch.full_like(slots, -1)
    reserved[0, 0] = slots[0, 0]
    expected = Criterion(LossConfig(num_points=0)).match(decoded.output, batch.targets(2), reserved)
    in_sight = batch.present[:, :, 2]
    assert torch.equal(after[in_sight], expected[in_sight])


def test_noise_on_the_state_is_as_strong_as_asked_for():
    torch.manual_seed(0)
    boxes = torch.tensor([0.5, 0.4, 0.2, 0.1]).expand(2, 5000, 4)
    state = FrameState(3 * torch.randn(2, 5000, 8), boxes, torch.ones(2, 1))
    found = noisy(state, 0.1)
    assert (found.queries - state.queries).std() == pytest.approx(0.3, rel=0.03)
    relative = (found.boxes[..., :2] - boxes[..., :2]) / boxes[..., 2:]
    assert relative.std((0, 1)).tolist() == pytest.approx([0.1, 0.1], rel=0.05)
    assert (found.boxes[..., 2:] / boxes[..., 2:]).log().std((0, 1)).tolist() == pytest.approx([0.1, 0.1], rel=0.05)


def test_noise_falls_on_every_frame_but_a_first_one(small_model, batch, criterion):
    objective = ClipObjective(small_model, criterion, state_noise=0.1)
    quiet, one = ClipObjective(small_model, criterion), batch.window(0, 1)

    def value(objective, batch):
        torch.manual_seed(1)
        return sum(objective(batch).values()).item()

    assert value(objective, one) == value(quiet, one)
    assert value(objective, batch) != pytest.approx(value(quiet, batch), rel=1e-5)
    carried = objective._carried[0].queries
    assert value(objective, batch) == value(objective, batch)
    assert torch.equal(objective._carried[0].queries, carried)


def test_phase_one_trains_the_aligner_and_its_positions_only(small_model, batch, criterion):
    small_model.requires_grad_(False)
    for parameter in phase_one_parameters(small_model):
        parameter.requires_grad_(True)
    stand_ins = StandIns(small_model.config.num_queries, small_model.config.hidden_dim)
    objective = ImageObjective(small_model, criterion, stand_ins=stand_ins)
    sum(objective(batch).values()).backward()
    trained = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "stand_ins.queries" in trained
    allowed = ("model.aligner.", "model.decoder.ref_point_head.", "stand_ins.")
    assert all(name.startswith(allowed) for name in trained)
    aligner = {f"model.aligner.{name}" for name, _ in small_model.aligner.named_parameters()}
    assert aligner <= trained


def test_slots_never_see_the_denoising_queries(small_model, batch):
    targets = batch.targets(0)
    slots = small_model.config.num_queries
    torch.manual_seed(0)
    denoising, repeated, answers = denoising_queries(targets, small_model.label_embed, slots, 30, 0.4)
    assert repeated.labels.shape == answers.shape == denoising.queries.shape[:2]
    with torch.no_grad():
        memory = small_model.encode(batch.frames[:, 0])
        plain = small_model.decode(memory, deep=True)
        noised = small_model.decode(memory, denoising=denoising, deep=True)
    for a, b in zip(plain.layers, noised.layers, strict=True):
        torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(a.mask_logits, b.mask_logits, rtol=0, atol=1e-3)
    assert noised.denoised[-1].logits.shape[1] == denoising.queries.shape[1]


def test_denoising_groups_do_not_see_each_other(small_model, batch):
    targets = batch.targets(0)
    count = targets.labels.shape[1]
    denoising, _, _ = denoising_queries(targets, small_model.label_embed, 10, 3 * count, 0.4)
    extra = 3 * count
    seen = ~denoising.mask
    assert seen[:count, :count].all()
    assert not seen[:count, count:extra].any()
    assert seen[:extra, extra:].all()
    assert not seen[extra:, :extra].any()
    assert seen[extra:, extra:].all()


def test_denoising_trains_the_label_embedding(small_model, batch, criterion):
    objective = ImageObjective(small_model, criterion, denoising=20)
    sum(objective(batch).values()).backward()
    assert small_model.label_embed.weight.grad.abs().sum() > 0
