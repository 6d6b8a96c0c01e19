"""Files as cameras and editors make them: EXIF, several tracks, joined recordings, odd clocks."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np

TICK = Fraction(1, 90_000)

# EXIF's orientation -> how numpy brings the stored picture upright.
EXIF_UPRIGHT = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image.transpose(1, 0, 2), 2),
    8: lambda image: np.rot90(image, 1),
}


def jpeg(image, orientation=None, quality=95):
    """The bytes of a JPEG of uint8 [H, W, 3] RGB, with an EXIF segment where an orientation (1..8) is given."""
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    if orientation is None:
        return data
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + orientation.to_bytes(2, "big") + b"\0\0"
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def write_motion_jpeg(path, jpegs, height, width, rate=10):
    """JPEGs as they are, as a camera writes them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuvj420p"
        for index, data in enumerate(jpegs):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, rate)
            packet.duration, packet.is_keyframe = 1, True
            container.mux(packet)
    return path


def write_tracks(path, tracks, sound=False):
    """Several video tracks; each is (images, times, codec, disposition) and sound is a second of silence.

    Where `times` has one more than the images it is the end of the last one.
    """
    with av.open(str(path), "w") as container:
        streams = []
        for images, _, codec, disposition in tracks:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.disposition = disposition
            streams.append(stream)
        audio = container.add_stream("aac", rate=16000) if sound else None
        for stream, (images, times, _, _) in zip(streams, tracks, strict=True):
            packets = []
            for image, time in zip(images, times, strict=False):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
                packets += stream.encode(frame)
            packets += stream.encode(None)
            if len(times) > len(images):
                packets[-1].duration = round((times[-1] - times[-2]) * 1000)
            container.mux(packets)
        if audio is not None:
            for start in range(0, 16000, 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def write_ts(path, images, times, start=0.0):
    """An MPEG-TS whose clock begins at `start` seconds; joined with others it is what recorders leave behind."""
    with av.open(str(path), "w", format="mpegts", options={"mpegts_copyts": "1"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12", "g": "5", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = TICK
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round((start + time) / TICK), TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def join(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path
