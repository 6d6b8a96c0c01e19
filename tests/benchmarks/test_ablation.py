"""The ablation: what it scores is what `l2g evaluate` gives, and its intervals and queries are what they say."""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from l2g import load_checkpoint
from l2g.data.registry import load_dataset
from l2g.evaluation.run import ScoringOptions, evaluate_backend
from l2g.runtime.backends.eager import EagerBackend

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import ablation
import ablation_insight
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
