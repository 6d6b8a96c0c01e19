"""Cameras by number and name in the way of each system, pipelines of GStreamer, and what a GPU holds."""

import ctypes
import sys
from types import SimpleNamespace

import av.device
import numpy as np
import pytest

from l2g.errors import VideoError
from l2g.runtime import memory
from l2g.runtime.video.live import webcams
from l2g.runtime.video.live.address import LiveOptions, ffmpeg_options, live_address
from l2g.runtime.video.source import Selection, input_name, open_source

pytestmark = pytest.mark.alone


SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"


def listed(*devices):
    return [SimpleNamespace(name=name, description=text, media_types=[kind]) for name, text, kind in devices]


DSHOW = listed(
    ("@device_pnp_a", "HD Webcam", "video"),
    ("@device_cm_m", "Microphone", "audio"),
    ("@device_pnp_b", "Industrial X", "video"),
)
AVFOUNDATION = listed(("0", "FaceTime HD Camera", "video"), ("1", "Desk View", "video"), ("0", "Mikrofon", "audio"))


@pytest.mark.parametrize(
    ("system", "text", "url", "format"),
    [
        ("win32", "1", "video=@device_pnp_b", "dshow"),
        ("win32", "camera:hd webcam", "video=@device_pnp_a", "dshow"),
        ("darwin", "0", "0:none", "avfoundation"),
        ("darwin", "camera:Desk View", "1:none", "avfoundation"),
    ],
)
def test_cameras_of_windows_and_macos(monkeypatch, system, text, url, format):
    opened = []

    def refuse(*arguments, **options):
        opened.append((arguments, options))
        raise OSError("no such hardware here")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(av.device, "enumerate_input_devices", {"dshow": DSHOW, "avfoundation": AVFOUNDATION}.get)
    monkeypatch.setattr("av.open", refuse)
    with pytest.raises(VideoError, match="used by no other program"):
        open_source(text, live=LiveOptions(open_timeout=2))
    (address, mode), options = opened[0]
    assert (address, mode, options["format"]) == (url, "r", format)
    assert options["timeout"] == (2, 10)
    assert options["options"] == ({"framerate": "30"} if system == "darwin" else {})


def test_a_camera_that_no_name_fits_lists_those_that_are_there(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(av.device, "enumerate_input_devices", lambda _: DSHOW)
    with pytest.raises(VideoError, match=r"camera Nikon is not there; there are 0 \(HD Webcam\), 1 \(Industrial X\)"):
        live_address("camera:Nikon")
    with pytest.raises(VideoError, match="fits several"):
        live_address("camera:d")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(webcams, "_webcams", lambda: [(2, webcams.Webcam("/dev/video2", "v4l2", "Cam Link"))])
    assert live_address("camera:cam").url == live_address("2").url == "/dev/video2"
    assert ffmpeg_options(live_address("2"), LiveOptions()) == {}


def test_a_pipeline_without_gstreamer_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(VideoError, match="nvarguscamerasrc: a GStreamer pipeline needs GStreamer and PyGObject"):
        open_source("nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1280 ! nvvidconv ! video/x-raw")
    assert input_name("videotestsrc is-live=true ! x264enc") == "videotestsrc is-live=true"


@pytest.fixture
def gstreamer(monkeypatch):
    """PyGObject belongs to the system's Python: seen here where that is of the same version."""
    monkeypatch.setattr(sys, "path", [*sys.path, SYSTEM_PACKAGES])
    gi = pytest.importorskip("gi", reason="no PyGObject for this Python")
    try:
        gi.require_version("Gst", "1.0")
        from gi.repository import Gst
    except (ImportError, ValueError):
        pytest.skip("no GStreamer here")
    Gst.init(None)
    if not all(Gst.ElementFactory.find(name) for name in ("videotestsrc", "videoconvert", "appsink")):
        pytest.skip("GStreamer without its base plugins")


def test_a_pipeline_is_read(gstreamer):
    """Rows of 3 x 50 bytes are padded in it; red is 255, 0, 0."""
    red = "videotestsrc is-live=true pattern=solid-color foreground-color=0xffff0000"
    with open_source(f"{red} ! video/x-raw,width=50,height=32,framerate=25/1", Selection(end=0.4)) as source:
        assert (source.is_live, source.frame_rate, source.height, source.width) == (True, 25.0, 32, 50)
        frames = list(source)
    assert 8 <= len(frames) <= 11
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(len(frames))], abs=0.02)
    np.testing.assert_allclose(frames[-1].image.reshape(-1, 3), np.full((32 * 50, 3), (255, 0, 0)), atol=3)


def test_a_pipeline_that_ends_is_a_file_and_its_own_sink_is_left_out(gstreamer):
    pipeline = "videotestsrc num-buffers=7 ! video/x-raw,width=64,height=32 ! appsink drop=true"
    with open_source(pipeline) as source:
        assert not source.is_live
        assert len(list(source)) == 7
        assert source.damage is None


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("nonsense-src ! videoconvert", "nonsense-src: no pipeline .*no element"),
        ("filesrc location=/nowhere ! decodebin", "gives no frame .*does gst-launch-1.0 run it"),
    ],
)
def test_a_pipeline_that_does_not_run_is_one_clear_error(gstreamer, pipeline, message):
    with pytest.raises(VideoError, match=message):
        open_source(pipeline, live=LiveOptions(open_timeout=2))


class _Nvml:
    """Two GPUs, of which the second does not answer."""

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802 - the library's own name, as below
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, device):  # noqa: N802
        device._obj.value = 7 + index.value
        return 0

    def nvmlDeviceGetMemoryInfo(self, device, memory):  # noqa: N802
        if device.value != 7:
            return 15
        memory._obj.total, memory._obj.free, memory._obj.used = 80 << 30, 77 << 30, 3 << 30
        return 0


def test_memory_of_gpus_is_told_where_there_are_any(monkeypatch):
    assert ctypes.sizeof(memory._Memory) == 24
    monkeypatch.setattr(memory, "_nvml", _Nvml)
    assert memory.device_bytes() == [3 << 30]
    monkeypatch.setattr(memory, "_nvml", lambda: None)
    assert memory.device_bytes() == []
