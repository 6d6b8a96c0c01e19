"""What a phase trains, and how the loss follows the state through a clip."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from l2g.modeling.local2global import FrameOutput, FrameState
from l2g.training.config import LossConfig
from l2g.training.loss import objectives
from l2g.training.loss.criterion import Criterion
from l2g.training.loss.denoising import denoising_queries
from l2g.training.loss.layers import Layers
from l2g.training.loss.matcher import assign
from l2g.training.loss.objectives import (
    ClipObjective,
    ImageObjective,
    StandIns,
    distance,
    lost,
    noisy,
    phase_one_parameters,
)
from l2g.training.loss.targets import FrameTargets, shares
from l2g.training.loss.terms import dice, focal, generalised_iou, mask_bce


@pytest.fixture
def criterion():
    return Criterion(LossConfig(num_points=0))


def layers_of(model, batch):
    """The last layer's predictions of the first frame, and its targets."""
    with torch.no_grad():
        memory = model.encode(batch.frames[:, 0])
        local = model.proposals(memory, model.heads)
        states = model.refine(memory, local.queries, local.boxes)
        queries, references = states.queries[-1][None], states.references[-1][None]
        return Layers.predict(model.heads, queries, references, memory.mask_features), batch.targets(0)


def test_instances_keep_their_slot_through_a_clip(small_model, batch, criterion, monkeypatch):
    tracks = []
    objective = ClipObjective(small_model, criterion, two_stage=False)
    monkeypatch.setattr(
        objectives, "assign", lambda costs, due, taken: tracks.append((due, assign(costs, due, taken))) or tracks[-1][1]
    )
    objective(batch)
    assert len(tracks) == batch.frames.shape[1]
    for (_, earlier), (_, later) in itertools.pairwise(tracks):
        begun = earlier >= 0
        assert torch.equal(earlier[begun], later[begun])
    for due, slots in tracks:
        assert (slots[due] >= 0).all()
        for row in slots:
            given = row[row >= 0].tolist()
            assert len(given) == len(set(given))


def test_all_frames_at_once_lose_what_frame_after_frame_does(small_model, batch, criterion):
    """The reference: `decode` frame by frame with all masks of all layers, each frame's loss for itself."""
    found = ClipObjective(small_model, criterion)(batch)
    state, slots, expected = None, None, []
    instances = batch.present.sum().float()
    for t in range(batch.frames.shape[1]):
        memory, targets = small_model.encode(batch.frames[:, t]), batch.targets(t)
        decoded = small_model.decode(memory, state, deep=True)
        slots = criterion.match(decoded.output, targets, slots)
        for output in decoded.layers:
            expected.append(frame_loss(output, targets, slots, instances))
        local = decoded.local
        boxes = small_model.heads.boxes(local.features, local.anchors)
        chosen = FrameOutput(local.logits, boxes, local.mask_logits)
        expected.append(frame_loss(chosen, targets, criterion.match(chosen, targets), instances))
        state = decoded.state
    for name, value in found.items():
        assert value.item() == pytest.approx(sum(terms[name] for terms in expected).item(), rel=1e-5), name


def frame_loss(output, targets, slots, instances):
    """The terms of one prediction of one frame, object by object."""
    weights, terms = LossConfig(), dict.fromkeys(("label", "mask", "dice", "box", "giou"), torch.zeros(()))
    classes = torch.zeros_like(output.logits)
    for row, column in (slots >= 0).nonzero().tolist():
        slot, seen = slots[row, column], targets.present[row, column]
        large = F.interpolate(output.mask_logits[row, slot][None, None], scale_factor=2, mode="bilinear")[0, 0]
        truth = F.adaptive_avg_pool2d(targets.masks[row, column][None].float(), large.shape)[0] * seen
        terms["mask"] = terms["mask"] + weights.mask * mask_bce(large.flatten(), truth.flatten())
        if seen:
            classes[row, slot, targets.labels[row, column]] = 1
            terms["dice"] = terms["dice"] + weights.dice * dice(large.flatten(), truth.flatten())
            box, true = output.boxes[row, slot], targets.boxes[row, column]
            terms["box"] = terms["box"] + weights.box * (box - true).abs().sum()
            terms["giou"] = terms["giou"] + weights.giou * (1 - generalised_iou(box, true))
    terms["label"] = weights.label * focal(output.logits, classes).sum()
    return {name: value / instances for name, value in terms.items()}


def test_a_hidden_instance_teaches_its_slot_no_class_and_an_empty_mask(small_model, batch, criterion):
    layers, targets = layers_of(small_model, batch)
    output = layers.output(0)
    slots = criterion.match(output, targets)
    one = torch.ones(())
    seen = criterion.loss(layers, targets, slots, one)
    hidden = FrameTargets(targets.labels, targets.boxes, targets.masks, torch.zeros_like(targets.present))
    gone = criterion.loss(layers, hidden, slots, one)
    background = (0.75 * output.logits.sigmoid() ** 2 * F.softplus(output.logits)).sum() * 4
    assert gone["label"].item() == pytest.approx(background.item(), rel=1e-4)
    shown = torch.cat([logits[owned[owned >= 0]] for logits, owned in zip(output.mask_logits, slots, strict=True)])
    enlarged = F.interpolate(shown[None], scale_factor=2, mode="bilinear")[0]
    empty = 5 * F.softplus(enlarged).mean((1, 2)).sum()
    assert gone["mask"].item() == pytest.approx(empty.item(), rel=1e-4)
    assert gone["dice"] == gone["box"] == gone["giou"] == 0
    assert seen["mask"] > 0


def test_slots_of_nobody_may_show_any_mask(small_model, batch, criterion):
    layers, targets = layers_of(small_model, batch)
    slots = criterion.match(layers.output(0), targets)
    loud = layers.embeddings.clone()
    for row, owned in zip(loud[0], slots.tolist(), strict=True):
        row[[slot for slot in range(len(row)) if slot not in owned]] += 10
    one = torch.ones(())
    assert not torch.equal(loud, layers.embeddings)
    found = [criterion.loss(replace(layers, embeddings=e), targets, slots, one) for e in (layers.embeddings, loud)]
    assert found[0]["mask"] == found[1]["mask"]


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
    objective._frames_with_loss = lambda length: [length - 1]
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


def test_what_is_carried_leaves_out_the_slots_that_lost_their_instance(small_model, batch, criterion, monkeypatch):
    """An untrained model holds nothing; what `lost` says decides."""
    objective = ClipObjective(small_model, criterion, two_stage=False)
    objective(batch.window(0, 2))
    assert (objective._carried[1][batch.present[:, :, 1]] == -1).all()
    seen = []
    monkeypatch.setattr(objectives, "lost", lambda *args: seen.append(args) or torch.zeros_like(args[2], dtype=bool))
    objective(batch.window(0, 2))
    kept = objective._carried[1]
    mask_logits, targets, slots = seen[0]
    assert torch.equal(slots, kept)
    assert torch.equal(targets.masks, batch.masks[:, :, 1])
    assert mask_logits.shape[:2] == (len(batch.frames), small_model.config.num_queries)
    assert (kept[batch.present[:, :, 0]] >= 0).all()
    # The next window starts with what was kept, whatever fits best by then.
    moved = kept.flip(1)
    objective._carried = objective._carried[0], moved
    objective(batch.window(2, 2))
    carried = objective._carried[1]
    assert torch.equal(carried[moved >= 0], moved[moved >= 0])


def test_lost_is_an_instance_whose_slot_shows_another_thing():
    """Slots 0 to 3 show the four quarters of the picture, slot 4 nothing."""
    logits = torch.full((1, 5, 8, 8), -3.0)
    masks = torch.zeros(1, 6, 32, 32, dtype=torch.uint8)
    for slot, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        logits[0, slot, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 3.0
    masks[0, 0, :16, :16] = 1  # slot 0's quarter
    masks[0, 1, :16, 16:] = 1  # slot 1's quarter
    masks[0, 2, 16:, 20:] = 1  # three quarters of slot 3's
    masks[0, 3, 16:, 26:] = 1  # less than half of it
    present = torch.tensor([[True, True, True, True, False, False]])
    targets = FrameTargets(torch.zeros(1, 6, dtype=torch.int64), torch.zeros(1, 6, 4), masks, present)

    def found(*slots):
        return lost(logits, targets, torch.tensor([slots]))[0].tolist()

    assert found(0, 1, 3, -1, 4, 2) == [False, False, False, True, False, False]
    assert found(1, 0, 2, 3, 4, 2) == [True, True, True, True, False, False]
    # Out of sight: lost where the slot shows something else by now.
    assert found(0, 1, 3, -1, 3, 0)[4:] == [True, True]


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


def test_the_distance_of_two_states_is_relative_and_counts_every_slot_alike():
    queries = torch.tensor([[[2.0, -2, 2, -2], [2, 2, 2, 2]]])  # root mean square 2
    other = queries + torch.tensor([[[1.0, 1, 1, 1], [0, 0, 0, 6]]])  # by 1 and by 3
    one, two = (FrameState(q, torch.zeros(1, 2, 4), torch.ones(1, 1)) for q in (queries, other))
    assert distance(one, two).item() == pytest.approx((1 / 2 + 3 / 2) / 2)
    assert distance(one, one).item() == pytest.approx(0, abs=1e-6)


def test_a_twin_of_the_state_parts_by_noise_alone(small_model, batch, criterion):
    """Without noise the twin is the state, and all the other terms are as they were; with noise every slot and the
    aligner answer for the distance, from a batch's second frame on, whatever state it started from."""
    plain = ClipObjective(small_model, criterion)(batch)
    still = ClipObjective(small_model, criterion, consistency=2.0)(batch)
    assert still.pop("twin").item() == pytest.approx(0, abs=1e-5)
    for name, value in still.items():
        assert value.item() == pytest.approx(plain[name].item(), rel=1e-5), name

    objective = ClipObjective(small_model, criterion, state_noise=0.1, consistency=2.0)
    assert "twin" not in objective(batch.window(0, 1))
    twin = objective(batch.window(1, 2))["twin"]
    assert 0.001 < twin.item() < 2
    twin.backward()
    assert all(p.grad.abs().sum() > 0 for p in small_model.aligner.parameters())


def test_a_twin_goes_its_own_way_through_a_batch(small_model, batch, criterion, monkeypatch):
    starts, twins, apart = [], [], []

    def measured(twin, state):
        twins.append(twin)
        apart.append(distance(twin, state))
        return apart[-1]

    monkeypatch.setattr(objectives, "noisy", lambda state, strength: starts.append(state) or noisy(state, strength))
    monkeypatch.setattr(objectives, "distance", measured)
    terms = ClipObjective(small_model, criterion, state_noise=0.1, consistency=2.0)(batch)
    length = batch.frames.shape[1]
    assert len(twins) == length - 1 >= 2
    assert starts[1] is starts[2]  # equal where it begins
    assert [id(twin) for twin in starts[4::2]] == [id(twin) for twin in twins[:-1]]
    assert terms["twin"].item() == pytest.approx(2.0 / length * sum(apart).item(), rel=1e-5)


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
        local = small_model.proposals(memory, small_model.heads)
        plain = small_model.refine(memory, local.queries, local.boxes)
        noised = small_model.refine(memory, local.queries, local.boxes, None, denoising)
    extra = denoising.queries.shape[1]
    for a, b in zip(plain.queries, noised.queries, strict=True):
        assert b.shape[1] == extra + slots
        torch.testing.assert_close(a, b[:, extra:], rtol=0, atol=1e-4)


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


def test_padding_asks_denoising_queries_for_nothing(small_model, criterion):
    """A frame's loss is its own, however many instances another frame of the batch has."""
    masks = torch.zeros(1, 1, 64, 96, dtype=torch.uint8)
    masks[..., 8:24, 16:48] = 1
    boxes = torch.tensor([[[1 / 3, 0.25, 1 / 3, 0.25]]])
    alone = FrameTargets(torch.tensor([[1]]), boxes, masks, torch.tensor([[True]]))
    padded = FrameTargets(
        torch.tensor([[1, 0, 0, 0]]),
        F.pad(boxes, (0, 0, 0, 3)),
        F.pad(masks, (0, 0, 0, 0, 0, 3)),
        torch.tensor([[True, False, False, False]]),
    )
    terms = []
    for targets in (alone, padded):
        _, repeated, slots = denoising_queries(targets, small_model.label_embed, 10, 1, 0.0)
        count = slots.shape[1]
        layers = Layers(
            torch.zeros(1, 1, count, 8), torch.full((1, 1, count, 4), 0.4), torch.zeros(1, 1, count, 4),
            torch.zeros(1, 4, 16, 24),
        )  # fmt: skip
        terms.append(criterion.loss(layers, repeated, slots, torch.ones(())))
    assert count == 4
    for name in ("mask", "dice", "box", "giou"):
        assert float(terms[1][name]) == pytest.approx(float(terms[0][name]), rel=1e-6)
        assert terms[0][name] > 0


def test_denoising_trains_the_label_embedding(small_model, batch, criterion):
    objective = ImageObjective(small_model, criterion, denoising=20)
    sum(objective(batch).values()).backward()
    assert small_model.label_embed.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(32, 64), (16, 32), (8, 16), (4, 8), (2, 4), (16, 16), (12, 32)])
def test_shares_of_larger_pixels_are_averages(size):
    """Counted in bytes where that is exact, whatever the memory's order; else as PyTorch does it."""
    masks = (torch.rand(2, 3, 5, 32, 64, generator=torch.Generator().manual_seed(0)) > 0.3).to(torch.uint8)
    masks[0] = 1
    masks = masks.movedim(2, 0).flatten(0, 1)
    assert torch.equal(shares(masks, *size), F.adaptive_avg_pool2d(masks.float(), size))
