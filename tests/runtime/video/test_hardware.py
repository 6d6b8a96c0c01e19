"""Decoders and encoders in hardware: used where they are, and else the processor's, with the same results."""

import os
import threading
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from l2g.errors import VideoError
from l2g.runtime.video.coding import hardware
from l2g.runtime.video.source import open_source, open_sources
from l2g.runtime.video.sources.container import VideoFile
from l2g.runtime.video.writer import VideoWriter

# A kind of device that no build of PyAV opens on any machine of ours.
NOWHERE = "vdpau"


def _pictures(count=4, height=90, width=130):
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, height // 10, width // 10, 3), np.uint8)
    return coarse.repeat(10, axis=1).repeat(10, axis=2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return _written(tmp_path_factory.mktemp("hardware") / "clip.mp4")[0]


def _written(path, encoder=None):
    with VideoWriter(path, 90, 130, 30, encoder=encoder) as writer:
        for index, picture in enumerate(_pictures()):
            writer.write(picture, index / 30)
    return path, writer.notice


def _frames(path, **options):
    with open_source(path, **options) as source:
        return np.stack([frame.image for frame in source]), source.notices


def test_a_decoder_that_is_not_there_changes_nothing_and_is_told(clip, monkeypatch):
    monkeypatch.setattr(hardware, "DECODERS", {"nvdec": NOWHERE})
    expected, notices = _frames(clip)
    assert not notices
    for name, told in (("nvdec", True), ("auto", False)):
        found, notices = _frames(clip, decoder=name)
        np.testing.assert_array_equal(found, expected)
        assert len(notices) == told
        assert all("no decoder nvdec" in text for text in notices)


def test_frames_as_hardware_gives_them_have_the_same_pixels(clip, monkeypatch):
    """NV12 holds the numbers of YUV 4:2:0 in another order, and FFmpeg turns either into RGB by code of its own."""
    expected, _ = _frames(clip)
    decoded = VideoFile._decoded_frames
    monkeypatch.setattr(
        VideoFile, "_decoded_frames", lambda self, *_: (frame.reformat(format="nv12") for frame in decoded(self))
    )
    found, _ = _frames(clip)
    np.testing.assert_array_equal(found, expected)


def test_an_encoder_that_is_not_there_changes_nothing_and_is_told(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "ENCODERS", {"nvenc": hardware.Encoder("h264_of_nobody", {})})
    for name, told in (("nvenc", True), ("auto", False)):
        path, notice = _written(tmp_path / f"{name}.mp4", name)
        assert path.read_bytes() == clip.read_bytes()
        assert bool(notice) is told
    assert "no encoder nvenc" in _written(tmp_path / "again.mp4", "nvenc")[1]


def test_an_encoder_that_is_there_is_used(clip, tmp_path, monkeypatch):
    """Another encoder of this PyAV in the place of one in hardware, with options of its own."""
    monkeypatch.setattr(hardware, "ENCODERS", {"nvenc": hardware.Encoder("libx264", {"qp": "45", "bf": "0"})})
    path, notice = _written(tmp_path / "coarse.mp4", "auto")
    assert notice is None
    assert path.stat().st_size < clip.stat().st_size
    with av.open(str(path)) as container:
        assert [frame.pts for frame in container.decode(video=0)] == [3000 * index for index in range(4)]


@pytest.mark.parametrize(("what", "use"), [("decoder", _frames), ("encoder", _written)])
def test_an_unknown_name_is_refused(what, use, clip, tmp_path):
    path = clip if what == "decoder" else tmp_path / "none.mp4"
    with pytest.raises(VideoError, match=f"{what} 'gpu' found, one of software, auto"):
        use(path, **{what: "gpu"})
    assert not (tmp_path / "none.mp4").exists()


class _Over:
    """An object of PyAV with some attributes of a test's own."""

    def __init__(self, real, **own):
        self.__dict__.update(own, _real=real)

    def __getattr__(self, name):
        return getattr(self._real, name)


def _imagined(monkeypatch, refuses, is_hwaccel=True):
    """Every opening with a decoder in hardware succeeds, and its packets are decoded but where `refuses(number)`.
    Returned is the list of packets that were looked at."""
    really, looked_at = av.open, []

    def opened(*args, hwaccel=None, **options):
        container = really(*args, **options)
        if hwaccel is None:
            return container
        real = container.streams.video[0]
        stream = _Over(real, codec_context=_Over(real.codec_context, is_hwaccel=is_hwaccel))

        def demux(_):
            for number, packet in enumerate(container.demux(real)):
                looked_at.append(number)
                yield _Over(packet, decode=refused) if refuses(number) else packet

        return _Over(container, streams=SimpleNamespace(video=[stream]), demux=demux)

    def refused():
        raise av.error.InvalidDataError(22, "profile 110 not supported")

    monkeypatch.setattr(av, "open", opened)
    return looked_at


@pytest.mark.parametrize(("name", "told"), [("nvdec", 1), ("auto", 0)])
@pytest.mark.parametrize("is_hwaccel", [True, False])
def test_a_stream_that_hardware_refuses_is_decoded_by_the_processor(name, told, is_hwaccel, clip, monkeypatch):
    """As H.264 of 10 bits: the decoder opens, and every packet fails; or it is of another track of the file."""
    expected, _ = _frames(clip)
    looked_at = _imagined(monkeypatch, lambda number: is_hwaccel, is_hwaccel)
    found, notices = _frames(clip, decoder=name)
    np.testing.assert_array_equal(found, expected)
    assert looked_at == ([0] if is_hwaccel else []) * (1 if told else len(hardware.DECODERS))
    assert len(notices) == told
    reason = "profile 110 not supported" if is_hwaccel else "it does not decode h264"
    assert all(f"no decoder nvdec for it here ({reason}): decoded by the processor" in text for text in notices)


def test_a_packet_that_fails_later_is_damage_and_no_reason_to_begin_again(clip, monkeypatch):
    looked_at = _imagined(monkeypatch, lambda number: number == 2)
    with open_source(clip, decoder="nvdec") as source:
        assert len(list(source)) < 4
    assert "1 packets could not be decoded" in source.damage
    assert source.notices == []
    assert looked_at == [0, 1, 2, 3, 4]


def test_what_nobody_decodes_is_refused_as_without_hardware(clip, monkeypatch):
    _imagined(monkeypatch, lambda number: True)
    monkeypatch.setattr(VideoFile, "_decoded_frames", lambda self, may_refuse=False: iter(()))
    with pytest.raises(VideoError, match="no frame can be decoded; give a complete video"):
        open_source(clip, decoder="nvdec")


@pytest.mark.parametrize("pipe", [False, True])
def test_a_decoder_that_is_named_for_pictures_or_a_pipe_is_said_to_be_none(pipe, clip, tmp_path):
    given = tmp_path / "given"
    if pipe:
        os.mkfifo(given)
        threading.Thread(target=lambda: given.write_bytes(clip.read_bytes()), daemon=True).start()
    else:
        given.mkdir()
        cv2.imwrite(str(given / "1.png"), _pictures()[0])
    (source,) = open_sources([given], decoder="nvdec")
    with source:
        assert source.notices == [f"{source.name}: decoder nvdec is for video files: decoded by the processor"]
