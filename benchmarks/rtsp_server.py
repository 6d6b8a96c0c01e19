"""A camera of RTSP, by GStreamer's own server: frames of a raw file over and over, to whoever connects.

    python3 benchmarks/rtsp_server.py PORT RATE WIDTH HEIGHT FILE

FILE: RGB frames, 3 x WIDTH x HEIGHT bytes each. Clients connect to rtsp://127.0.0.1:PORT/live. It needs PyGObject and
GStreamer's RTSP server (Debian: python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and -ugly), and
nothing of this package, since these belong to the system's Python. "ready" is printed once it listens.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

_PIPELINE = (
    "( appsrc name=frames is-live=true format=time do-timestamp=true block=false max-buffers=2 leaky-type=downstream "
    "caps=video/x-raw,format=RGB,width={width},height={height},framerate={rate}/1 ! videoconvert "
    "! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max={rate} "
    "! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


def serve(port: int, rate: int, width: int, height: int, file: str) -> None:
    size, data = 3 * width * height, Path(file).read_bytes()
    frames = [data[at : at + size] for at in range(0, len(data), size)]

    def push(source: Gst.Element) -> None:
        began = time.monotonic()
        for count in range(sys.maxsize):
            # Flushing: nobody looks any more.
            if source.emit("push-buffer", Gst.Buffer.new_wrapped(frames[count % len(frames)])) != Gst.FlowReturn.OK:
                return
            time.sleep(max(0.0, began + (count + 1) / rate - time.monotonic()))

    def prepared(_: object, media: GstRtspServer.RTSPMedia) -> None:
        source = media.get_element().get_by_name_recurse_up("frames")
        threading.Thread(target=push, args=(source,), daemon=True).start()

    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(_PIPELINE.format(width=width, height=height, rate=rate))
    factory.set_shared(True)
    factory.connect("media-configure", prepared)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"port {port} cannot be listened at")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:5]), sys.argv[5])
