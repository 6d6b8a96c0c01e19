"""When two results are the same to the bit."""


def content(result):
    """All that a `FrameResult` says, but for its class names; scores as numbers, not rounded."""
    tracks = [
        (t.track_id, t.slot, t.label, t.score, t.frame_label, t.box, t.mask.height, t.mask.width, t.rle["counts"])
        for t in result.tracks
    ]
    return result.index, result.time, result.height, result.width, result.reset, tracks
