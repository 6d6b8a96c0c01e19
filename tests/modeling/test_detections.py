"""The best slots, chosen on the device, against a sort on the host."""

import numpy as np
import torch

from l2g.modeling.detections import select_detections
from l2g.modeling.local2global import FrameOutput


def test_against_a_sort():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 4, generator=generator)
    masks = 3 * torch.randn(2, 7, 5, 6, generator=generator)
    found = select_detections(FrameOutput(logits, torch.rand(2, 7, 4), masks), 3)
    for stream in range(2):
        probability = 1 / (1 + np.exp(-logits[stream].double().numpy()))
        slots = np.argsort(-probability.max(1))[:3]
        assert found.slots[stream].tolist() == slots.tolist()
        assert found.labels[stream].tolist() == probability[slots].argmax(1).tolist()
        np.testing.assert_allclose(found.scores[stream], probability[slots].max(1), atol=1e-6)
        expected = 255 / (1 + np.exp(-masks[stream].double().numpy()[slots]))
        assert np.abs(found.masks[stream].numpy() - expected).max() <= 0.5 + 1e-4
    dtypes = [getattr(found, name).dtype for name in ("scores", "labels", "slots", "masks")]
    assert dtypes == [torch.float32, torch.int32, torch.int32, torch.uint8]


def test_a_positive_logit_is_a_byte_of_128_or_more():
    """Whoever thresholds the bytes draws the mask that the logits drew, up to logits too small for a byte."""
    logits = torch.tensor([-8.0, -0.02, 0.0, 0.02, 8.0, 90.0, -90.0]).view(1, 1, 1, 7)
    found = select_detections(FrameOutput(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4), logits), 1)
    assert found.masks.flatten().tolist() == [0, 126, 128, 129, 255, 255, 0]


def test_softmax_scores_leave_no_object_out():
    """Three slots of two classes: the first is surely nothing, so it is chosen last, with what is left of its class."""
    logits = torch.tensor([[[1.0, 0.0, 9.0], [2.0, 0.0, 0.0], [0.0, 4.0, 1.0]]])
    masks = torch.zeros(1, 3, 2, 2)
    found = select_detections(FrameOutput(logits, torch.zeros(1, 3, 4), masks), 3, "softmax")
    assert found.slots.tolist() == [[2, 1, 0]]
    assert found.labels.tolist() == [[1, 0, 0]]
    expected = logits.double().softmax(-1)[0]
    torch.testing.assert_close(found.scores[0].double(), expected[[2, 1, 0], [1, 0, 0]], rtol=1e-6, atol=0)
