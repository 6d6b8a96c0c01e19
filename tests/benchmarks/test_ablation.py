"""The ablation: what it scores is what `l2g evaluate` gives, and its intervals and queries are what they say."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from l2g import load_checkpoint
from l2g.data.registry import load_dataset
from l2g.data.synthetic.video import synthetic_video
from l2g.evaluation.run import ScoringOptions, evaluate_backend
from l2g.modeling.aligner import AlignerLayer
from l2g.modeling.local2global import build_model
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.outputs import RawOutputs
from l2g.training import trainer
from l2g.training.config import load_config
from l2g.training.dataset import open_dataset
from l2g.training.loss.criterion import Criterion
from l2g.training.loss.objectives import ClipObjective
from l2g.training.source import Batches

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import ablation
import ablation_gradients
import ablation_insight
import ablation_open
import ablation_oracle
import ablation_priors
import ablation_report


@pytest.fixture(scope="module")
def model():
    return load_checkpoint("l2g_tiny").eval()


def test_scores_are_those_of_an_evaluation_with_and_without_the_handover(model):
    dataset = load_dataset("synthetic:occluded")
    dataset = replace(dataset, videos=dataset.videos[:2])
    found = ablation.score(model, dataset)
    for how, handover in (("handover", True), ("slots", False)):
        expected = evaluate_backend(EagerBackend(model), dataset, options=ScoringOptions(handover=handover))
        assert found[how]["AP"] == pytest.approx(100 * expected.report.stats["AP"], abs=0.01)
        assert found[how]["switches"] == pytest.approx(expected.identities.switches_per_100_frames, abs=1e-6)
        assert found[how]["covered"] == pytest.approx(100 * expected.identities.coverage, abs=1e-6)
        assert len(found[how]["draws"]) == ablation.DRAWS
        assert min(found[how]["draws"]) < found[how]["AP"] < max(found[how]["draws"])
    assert found["handover"]["AP"] != found["slots"]["AP"]


def test_identities_of_the_annotation_lose_none(model):
    """Objects that lie apart, in slots that are exchanged from frame to frame: with them AP is what it was."""
    masks = np.zeros((3, 40, 60), np.uint8)
    for row, left in enumerate((2, 22, 42)):
        masks[row, 5:30, left : left + 15] = 1
    codes = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    logits = np.where(masks, 9, -9).astype(np.float32)
    empty = np.zeros((1, 5, 4), np.float32)
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = rng.permutation(5)
        maps = np.full((1, 5, 40, 60), -9, np.float32)
        classes = np.full((1, 5, 8), -5, np.float32)
        for row, slot in enumerate(order[:3]):
            maps[0, slot], classes[0, slot, row] = logits[row], 3
        outputs = RawOutputs(np.float32(order[None, :, None]), empty, classes, maps)
        found = {slot: coco_mask.encode(np.asfortranarray((maps[0, slot] > 0).astype(np.uint8))) for slot in range(5)}
        own = ablation_oracle.as_annotated(outputs, found, [*codes[:2], None, codes[2]])
        assert own.logits[0].argmax(-1)[[0, 1, 3]].tolist() == [0, 1, 2]
        assert np.array_equal(own.mask_logits[0, [0, 1, 3]] > 0, masks > 0)
        assert not (own.mask_logits[0, [2, 4]] > 0).any()
        assert sorted(own.queries[0, :, 0].tolist()) == sorted(order.tolist())
    dataset = load_dataset("synthetic:occluded")
    found = ablation.score(model, replace(dataset, videos=dataset.videos[:1]), annotated=True)
    assert list(found) == ["slots", "handover", "annotation"]
    assert found["annotation"]["AP"] == pytest.approx(found["slots"]["AP"], abs=10)  # a video that loses hardly any


def test_priors_are_right_where_they_are_said_to_be_and_nowhere_else(model):
    dataset = load_dataset("synthetic:occluded")
    dataset = replace(dataset, videos=dataset.videos[:1])
    categories = [category.id for category in dataset.categories]
    plain = ablation_priors.results_with(model, dataset.videos, categories, boxes=False, queries=False)
    expected = evaluate_backend(EagerBackend(model), dataset, options=ScoringOptions(handover=False))
    found = ablation.ap_of_draws(ablation.ground_truth(dataset), plain, np.ones((1, 1), np.int64))[0]
    assert found == pytest.approx(expected.report.stats["AP"], abs=1e-4)

    held = [ablation_priors._Held.of(video) for video in dataset.videos]
    with torch.no_grad():
        memory = model.encode(torch.from_numpy(np.stack([one.clip.frames[0] for one in held])))
        local = model.proposals(memory, model.heads)
        decoded = model.decode(memory)
        for row, one in enumerate(held):
            one.find(decoded.output.mask_logits[row] > 0, 0)
        for boxes, queries in ablation_priors.PRIORS.values():
            state = ablation_priors._righted(model, local, decoded.state, held, 0, boxes, queries)
            for row, one in enumerate(held):
                known = dict(one.seen(0))
                assert len(known) > 1
                moved = (state.boxes[row] != decoded.state.boxes[row]).any(-1)
                assert moved.nonzero().flatten().tolist() == (sorted(known) if boxes else [])
                changed = (state.queries[row] != decoded.state.queries[row]).any(-1)
                own = {}  # of objects that have a local query of their own
                for slot, box in known.items():
                    assert not boxes or np.array_equal(state.boxes[row, slot].numpy(), box)
                    overlaps = [plain_iou(box.tolist(), other.tolist()) for other in local.boxes[row]]
                    if max(overlaps) > 0.5:
                        own[slot] = local.queries[row, int(np.argmax(overlaps))]
                assert changed.nonzero().flatten().tolist() == (sorted(own) if queries else [])
                assert own
                for slot, query in own.items() if queries else ():
                    assert torch.equal(state.queries[row, slot], query)


def run(seed, ap, draws):
    return {"seed": seed, "scores": {"val": {"slots": {"AP": ap, "draws": draws}}}}


def test_a_difference_is_of_equal_seeds_and_equal_videos():
    rng = np.random.default_rng(0)
    draws = rng.normal(50, 5, 200)  # what the choice of videos does, to both alike
    before = [run(0, 50.0, draws), run(1, 60.0, draws + 10), run(7, 0.0, draws)]
    after = [run(0, 53.0, draws + 3), run(1, 63.0, draws + 13)]
    mean, low, high, seeds = ablation_report._difference(before, after, "val", "slots")
    assert (mean, seeds) == (3.0, 2)
    assert [low, high] == pytest.approx([3, 3])
    # Seeds that disagree make it wide: with both the same one it is 1 or 5.
    after = [run(0, 51.0, draws + 1), run(1, 65.0, draws + 15)]
    mean, low, high, _ = ablation_report._difference(before, after, "val", "slots")
    assert (mean, low, high) == (3.0, pytest.approx(1), pytest.approx(5))


def test_an_archive_has_what_the_folders_have_and_grows(tmp_path, capsys):
    def write(folder, variant, seed, ap):
        (tmp_path / folder / f"{variant}-{seed}").mkdir(parents=True)
        row = {**run(seed, ap, [ap, ap + 1]), "variant": variant, "insight": {}}
        (tmp_path / folder / f"{variant}-{seed}" / "result.json").write_text(json.dumps(row))

    archive = tmp_path / "all.json.gz"
    write("one", "baseline", 0, 40.0)
    write("two", "baseline", 0, 41.0)
    write("two", "+ aligner", 0, 45.0)
    for folder, count in (("one", 1), ("two", 2)):
        assert ablation.main(["pack", "--output", str(tmp_path / folder), "--archive", str(archive)]) == 0
        assert capsys.readouterr().out.endswith(f": {count} runs\n")
    assert ablation.read(archive) == ablation.read(tmp_path / "two")
    assert list(ablation.read(archive)) == ["baseline", "+ aligner"]
    kept = archive.read_bytes()
    assert ablation.main(["pack", "--output", str(tmp_path / "none"), "--archive", str(archive)]) == 2
    assert "no results found" in capsys.readouterr().err
    other = tmp_path / "two" / "baseline-0" / "result.json"
    other.write_text(json.dumps({**json.loads(other.read_text()), "clips": 2}))
    assert ablation.main(["pack", "--output", str(tmp_path / "two"), "--archive", str(archive)]) == 2
    assert "runs with other options" in capsys.readouterr().err
    assert archive.read_bytes() == kept
    archive.write_bytes(b"PK")
    assert ablation.main(["table", "--output", str(archive)]) == 2
    assert "no archive of results" in capsys.readouterr().err


def test_clips_of_crossing_are_drawn_from_its_split_and_none_is_scored(tmp_path):
    config = ablation.run_config("+ aligner on crossing", 0, ablation.parse(["run", "--output", str(tmp_path)]))
    assert config.overrides == ablation.VARIANTS["+ aligner"].model
    scored = load_dataset("synthetic:crossing")
    with ablation.VARIANTS["+ aligner on crossing"].change():
        learned = trainer.open_dataset(config.data)
    for number in range(2):
        expected = synthetic_video("crossing", number, seed=1000, frames=[5]).frames[0]
        assert np.array_equal(learned.videos[number].frame(5), expected)
        assert not np.array_equal(expected, scored.videos[number].frame(5))
    assert learned.name == scored.name
    assert len(learned.videos) >= 10_000
    assert trainer.open_dataset(config.data).name == "synthetic:train"


def test_what_the_aligner_looks_at_is_its_own_attention(model):
    looks = ablation_insight.Looks(model)
    generator = torch.Generator().manual_seed(0)
    queries, position, local = (torch.randn(2, 20, 64, generator=generator) for _ in range(3))
    with torch.inference_mode():
        layer = model.aligner.layers[0]
        plain = layer(queries, position, local, local)
        weights = looks.take()[0]
        looks.close()
        # By hand: the layer's second sum from these weights gives the layer's own result.
        attention = layer.cross_attn
        q = queries + position
        first = layer.norm1(queries + layer.self_attn(q, q, queries)[0])
        query, key = first + position, local
        wq, wk, _ = attention.in_proj_weight.chunk(3)
        bq, bk, _ = attention.in_proj_bias.chunk(3)
        heads = [x.unflatten(-1, (8, 8)).transpose(1, 2) for x in (query @ wq.T + bq, key @ wk.T + bk)]
        expected = (heads[0] @ heads[1].transpose(2, 3) / 8**0.5).softmax(-1).mean(1)
    assert torch.allclose(weights, expected, atol=1e-5)
    assert not layer.cross_attn._forward_hooks
    with torch.inference_mode():
        assert torch.equal(layer(queries, position, local, local), plain)


def test_without_an_aligner_the_decoder_starts_from_the_prior(model):
    found = ablation_insight.insight(model, "val", videos=2, frames=6)
    assert 0 < found["prior to aligned, held"] < 0.999
    assert 0 < found["layer 0: own local query"] < 1
    assert 0 < found["layer 0: entropy"] <= 1
    model = load_checkpoint("l2g_tiny").eval()
    model.aligner = None
    model.marked = False
    found = ablation_insight.insight(model, "val", videos=2, frames=6)
    assert found["prior to aligned, free"] == pytest.approx(1, abs=1e-6)
    assert not any(name.startswith("layer") for name in found)


def test_a_variant_is_its_switches_alone_and_bad_input_is_named(tmp_path, capsys):
    weights = Path(ablation.__file__).parents[1] / "l2g/weights/l2g_tiny.safetensors"
    words = ["run", "--output", str(tmp_path), "--init", str(weights), "--variants", "baseline", "+ aligner"]
    words += ["--seeds", "0", "--iterations", "1", "1", "1", "--clips", "1", "--videos", "1", "1", "0", "0"]
    options = ablation.parse(words)
    config = ablation.run_config("loss in 2 of 8 frames", 3, options)
    assert [phase.kind for phase in config.phases] == ["align", "clip", "clip"]
    assert config.seed == 3
    assert config.phases[2].supervised == 2
    assert ablation.run_config("baseline", 0, options).overrides == {"aligner": None, "trajectory": False}
    assert ablation.main(["table", "--output", str(tmp_path)]) == 2
    assert "no results found" in capsys.readouterr().err
    assert ablation.main([*words[:4], str(tmp_path / "none"), *words[5:]]) == 2
    assert "ablation.py segmenter" in capsys.readouterr().err
    picture = Namespace(output=tmp_path, picture=tmp_path / "p.png", video="val:x", frames=[0], seed=0)
    with pytest.raises(Exception, match="SPLIT:NUMBER"):
        ablation_report.draw_picture(picture, ["baseline"], ablation.folder_of)


@pytest.fixture
def layers():
    """A layer of an aligner and its four inputs, float32 [2, 20, 64]."""
    torch.manual_seed(0)
    return AlignerLayer(64, 8, 128), [torch.randn(2, 20, 64) for _ in range(4)]


@pytest.mark.parametrize(("variants", "said"), [(["baseline", "+ aligner"], True), (["+ aligner"], False)])
def test_who_loses_a_learned_aligner_is_said(variants, said, tmp_path, monkeypatch, capsys):
    """The decoder has learned with it: what has none then is handicapped."""
    monkeypatch.setattr(ablation, "measure", lambda *_: None)
    assert ablation.main(["run", "--output", str(tmp_path), "--variants", *variants]) == 0
    assert ("has an aligner that baseline will lose; see `plain`" in capsys.readouterr().err) == said


def test_what_the_paper_leaves_open_is_what_its_name_says(layers):
    layer, given = layers
    with ablation_open.CHANGES["norm before each part"](), torch.no_grad():
        for part in (layer.self_attn.out_proj, layer.cross_attn.out_proj, layer.linear2):
            part.weight.zero_()
            part.bias.zero_()
        assert torch.equal(layer(*given), given[0])
    config = ablation.VARIANTS["places in values too"].model["aligner"]
    small = build_model("l2g_tiny", aligner=config)
    queries, position, local, place = given
    plain = small.aligner(queries, position, local, place)
    with ablation_open.CHANGES["places in values too"]():
        placed = small.aligner(queries, position, local, place)
        assert torch.equal(placed, small.aligner(queries, position, local + place, 0 * place))
    assert not torch.allclose(placed, plain, atol=1e-3)


def test_an_aligner_that_starts_as_nothing(tmp_path):
    """Also where the checkpoint that a run starts from has one that has learned."""
    config = ablation.run_config("aligner starts as nothing", 0, ablation.parse(["run", "--output", "x"]))
    given = torch.nn.functional.layer_norm(torch.randn(2, 20, 64), (64,))
    with torch.no_grad():
        learned = trainer.Trainer(config, tmp_path / "learned").model.aligner.layers[0]
        with ablation_open.CHANGES["aligner starts as nothing"]():
            quiet = trainer.Trainer(config, tmp_path / "quiet").model.aligner.layers[0]
        assert (learned(given, given, given, given) - given).abs().max() > 0.1
        for part in (quiet.self_attn.out_proj, quiet.cross_attn.out_proj, quiet.linear2):
            assert not any(parameter.any() for parameter in part.parameters())


def test_no_gradient_between_frames_and_a_faster_aligner(model):
    trained = build_model("l2g_tiny").train()
    picture = torch.zeros(1, 96, 160, 3, dtype=torch.uint8)
    with ablation_open.CHANGES["no gradient between frames"]():
        assert not trained.step(picture)[1].queries.requires_grad
    assert trained.step(picture)[1].queries.requires_grad
    options = ablation.parse(["run", "--output", "x"])
    config = ablation.run_config("+ trajectory", 0, options)
    objective = SimpleNamespace(model=trained, named_modules=trained.named_modules)
    with ablation_open.CHANGES["aligner learns 5 times as fast"]():
        built = trainer.build_optimiser(objective, config, config.phases[1])
    rates = {id(p): group["lr"] for group in built.param_groups for p in group["params"]}
    names = {name: rates[id(p)] / config.phases[1].lr for name, p in trained.named_parameters() if id(p) in rates}
    assert sum(map(len, (group["params"] for group in built.param_groups))) == len(names)
    assert {rate for name, rate in names.items() if name.startswith("aligner.")} == {5.0}
    assert {rate for name, rate in names.items() if name.startswith("heads.")} == {1.0}


def test_an_aligner_that_is_told_where_to_look():
    """The term is what the model's own attention gives; all others stay what they are, and nothing is left behind."""
    config = load_config("synthetic_tiny")
    phase = replace(ablation.WINDOWS, iterations=1, batch_size=2, clip_length=3, window=3)
    batch = Batches(open_dataset(config.data), config.data, phase, (config.seed, 0))[0]
    model = load_checkpoint("l2g_tiny").train()
    chosen = []

    class Objective(ClipObjective):
        def _slots(self, *given):
            chosen.append(super()._slots(*given))
            return chosen[-1]

    with torch.no_grad():
        plain, looks = Objective(model, Criterion(config.loss)), ablation_insight.Looks(model)
        expected = plain(batch)
        weights = looks.take()
        looks.close()
        with ablation_open.CHANGES["told where to look"]():
            found = ClipObjective(model, Criterion(config.loss))(batch)
        local = model.proposals(model.encode(batch.frames.transpose(0, 1).flatten(0, 1)), model.heads).boxes
        assert ClipObjective(model, Criterion(config.loss))(batch).keys() == expected.keys()
    assert found.keys() - expected.keys() == {"look"}
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4)
    # Hooks see the layers of the first frame, then those of the second: [3 frames * 3 layers, B, N, N].
    losses = []
    for place, slots in enumerate(chosen[0].unflatten(0, (3, 2))):
        for row, stream in enumerate(slots):
            for instance, slot in enumerate(stream.tolist()):
                if slot < 0 or not batch.present[row, instance, place]:
                    continue
                box = batch.boxes[row, instance, place].tolist()
                overlap = [plain_iou(box, other.tolist()) for other in local[2 * place + row]]
                if max(overlap) < 0.5:
                    continue
                own = int(np.argmax(overlap))
                losses += [-np.log(float(weights[3 * place + layer, row, slot, own])) for layer in range(3)]
    assert len(losses) > 12
    assert float(found["look"]) == pytest.approx(np.mean(losses), rel=1e-4)


def plain_iou(one, other):
    common = 1.0
    for axis in (0, 1):
        low = max(box[axis] - box[axis + 2] / 2 for box in (one, other))
        high = min(box[axis] + box[axis + 2] / 2 for box in (one, other))
        common *= max(0.0, high - low)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def test_an_aligner_that_sees_nothing_and_one_that_sees_another_video(layers):
    layer, (queries, position, keys, values) = layers
    with torch.no_grad():
        plain = layer(queries, position, keys, values)
        with ablation_open.SIGHTS["nothing"]():
            assert torch.equal(layer(queries, position, keys, values), layer(queries, position, 0 * keys, 9 * values))
        with ablation_open.SIGHTS["another video's"]():
            swapped = layer(queries, position, keys[[1, 0]], values[[1, 0]])
        torch.testing.assert_close(swapped, plain)


def test_gradients_of_parts_are_those_of_a_plain_backward_pass(model):
    config = load_config("synthetic_tiny")
    phase = replace(ablation.WINDOWS, iterations=1, batch_size=1, clip_length=2, window=2)
    learner = load_checkpoint("l2g_tiny")
    found = ablation_gradients.gradients(learner, config, phase)
    assert list(found) == ["aligner", "decoder"]

    batch = Batches(open_dataset(config.data), config.data, phase, (config.seed, 0))[0]
    torch.manual_seed(0)
    plain = load_checkpoint("l2g_tiny").train()
    loss = sum(ClipObjective(plain, Criterion(config.loss))(batch).values())
    cross = [layer.cross_attn for layer in plain.aligner.layers]
    weights = [parameter for layer in cross for parameter in (layer.in_proj_weight, layer.in_proj_bias)]
    outputs = [parameter for layer in cross for parameter in layer.out_proj.parameters()]
    grads = torch.autograd.grad(loss, weights + outputs)
    width = plain.config.hidden_dim
    where = torch.cat([grad[: 2 * width].flatten() for grad in grads[: len(weights)]])
    what = torch.cat(
        [g[2 * width :].flatten() for g in grads[: len(weights)]] + [g.flatten() for g in grads[len(weights) :]]
    )
    assert found["aligner"]["cross: where"] == pytest.approx(float(where.square().mean().sqrt()), rel=1e-4)
    assert found["aligner"]["cross: what"] == pytest.approx(float(what.square().mean().sqrt()), rel=1e-4)
    assert found["aligner"]["cross: where"] != pytest.approx(found["aligner"]["self: where"], rel=0.01)
    assert all(parameter.grad is None for parameter in learner.parameters())
    baseline = build_model(replace(model.config, aligner=None))
    assert list(ablation_gradients.gradients(baseline, config, phase)) == ["decoder"]


def test_the_plain_segmenter_has_no_aligner_and_all_else_of_the_other(tmp_path, capsys):
    assert ablation.main(["plain", "--output", str(tmp_path), "--iterations", "1"]) == 0
    path = Path(capsys.readouterr().out.strip())
    plain, whole = load_checkpoint(path), load_checkpoint(ablation.SEGMENTER)
    assert plain.aligner is None
    names = {name for name in whole.state_dict() if not name.startswith(("aligner.", "slot_marks"))}
    assert set(plain.state_dict()) == names
    # One warm-up step away.
    before, after = (model.state_dict()["decoder.layers.0.linear1.weight"] for model in (whole, plain))
    assert 0 < (before - after).abs().max() < 1e-3
    config = ablation.run_config("+ aligner", 0, ablation.parse(["run", "--output", "x", "--init", str(path)]))
    start = trainer.Trainer(config, tmp_path / "run")
    assert {name for name in start.fresh if not name.startswith("aligner.")} == {"slot_boxes"}
    assert not start.model.aligner.layers[0].linear2.weight.any()  # it begins as nothing
