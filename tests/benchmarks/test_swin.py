"""What the eager Swin is timed beside: the public code's steps, no more of them than it takes."""

import torch

from benchmarks import swin as benchmark
from tests.exported_swin import swin_model


def test_masks_are_made_of_the_chosen_tokens_and_the_last_layer(monkeypatch, capsys):
    model, made = swin_model(), []
    heads = model.heads
    whole = heads.mask_logits
    monkeypatch.setattr(heads, "mask_logits", lambda *given: made.append(given) or whole(*given))
    monkeypatch.setattr(benchmark, "_large", lambda args: model)
    threads = torch.get_num_threads()
    assert benchmark.main(["--part", "eager", "--repeats", "1", "--threads", str(threads)]) in (0, 1)
    assert "times as fast as the public steps" in capsys.readouterr().out
    assert len(made) == 2 * 2 * 2  # of both sides, in a round that warms up and one that counts
