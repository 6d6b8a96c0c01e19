"""Results sent on while a run goes on, as the lines of `frames.jsonl`: to an MQTT broker, to a web address."""

from __future__ import annotations

import base64
import contextlib
import http.client
import math
import os
import threading
import time
import urllib.error
import urllib.request
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from l2g.errors import VideoError
from l2g.runtime.video.live.address import without_password
from l2g.runtime.video.live.watcher import Progress, Watcher
from l2g.runtime.video.results import line_of
from l2g.runtime.video.sources.base import shown

# Lines that wait while the other side is away: the oldest beyond these are dropped, and counted.
MOST_LINES = 1000
# Sent together at most, where the other side takes several.
_BATCH = 100
# Seconds: of one attempt, between two attempts at first and at most, and for what is left at the end of the run.
_PATIENCE, _FIRST_PAUSE, _LONGEST_PAUSE, _LAST = 5.0, 0.25, 10.0, 1.0
# So often at most it is said that the other side is too slow.
_SAY_SECONDS = 10.0

TOKEN_VARIABLE = "L2G_SEND_TOKEN"


def open_sender(url: str, out: Callable[[str], None]) -> Sender:
    """What sends results to `mqtt[s]://[USER:PASSWORD@]HOST[:PORT]/TOPIC` or `http[s]://...`.

    out: is told when the other side is lost and found, and how many lines it missed. VideoError for another address,
    or where the library is missing.
    """
    try:
        parts = urlsplit(url)
        there = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets around no address, a port that is no number
        parts, there = urlsplit(""), False
    if parts.scheme in ("http", "https") and there:
        return WebSender(url, out)
    if parts.scheme in ("mqtt", "mqtts") and there and parts.path.strip("/"):
        return MqttSender(url, out)
    raise VideoError(f"--send {without_password(url)} found, mqtt[s]://HOST/TOPIC or http[s]://... expected")


class Sender(Watcher):
    """A thread that sends each result once it is there; what looks on is never held up by the other side.

    A line that could not be sent is tried again until it is old: at most `MOST_LINES` wait. Each arrives at least once
    unless that is said.
    """

    def __init__(self, url: str, out: Callable[[str], None]):
        self.name = without_password(url)
        self._out = out
        self._lines: deque[tuple[str, str]] = deque()
        self._changed = threading.Condition()
        self._closing: float | None = None
        self._dropped = 0  # and not said yet
        self._said = -math.inf
        self._away = False
        self._thread = threading.Thread(target=self._work, name="l2g-send", daemon=True)
        self._thread.start()

    def result(self, progress: Progress) -> None:
        line = line_of(progress.result, progress.result.class_names, progress.stream)
        with self._changed:
            if len(self._lines) >= MOST_LINES:
                self._lines.popleft()
                self._dropped += 1
            self._lines.append((progress.stream, line))
            self._changed.notify()

    def close(self) -> None:
        """Send what is left, for a second at most, and say what was not."""
        with self._changed:
            self._closing = time.monotonic() + _LAST
            self._changed.notify()
        self._thread.join(_LAST + 0.2)
        with self._changed:
            missed = self._dropped + len(self._lines)
        if missed:
            self._out(f"{self.name}: {missed} results were not sent")
        self.disconnect()

    @abstractmethod
    def send(self, lines: Sequence[tuple[str, str]], seconds: float) -> None:
        """Send (stream, line) pairs. OSError where they did not arrive within `seconds`, ValueError where the other
        side will never take them."""

    def disconnect(self) -> None:
        """Free what was opened."""

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing is not None)
                if not self._lines or self._left() <= 0:
                    return
                batch = [self._lines[place] for place in range(min(_BATCH, len(self._lines)))]
            try:
                self.send(batch, min(_PATIENCE, self._left()))
            except ValueError as error:
                self._out(f"{self.name}: {len(batch)} results were refused ({error})")
                self._forget(batch)
            except OSError as error:
                if not self._away:
                    self._out(f"{self.name}: cannot be reached ({error}); results wait, the newest {MOST_LINES}")
                self._away = True
                with self._changed:
                    self._changed.wait_for(lambda: self._closing is not None, pause)
                    if self._closing is not None and self._left() < _FIRST_PAUSE:
                        return
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._forget(batch)
                if self._away or (self._dropped and time.monotonic() > self._said + _SAY_SECONDS):
                    self._say_dropped()
                self._away, pause = False, _FIRST_PAUSE

    def _left(self) -> float:
        return _PATIENCE if self._closing is None else self._closing - time.monotonic()

    def _say_dropped(self) -> None:
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        how = "reached again" if self._away else "slow"
        self._out(f"{self.name}: {how}; {dropped} results were too old to be sent")
        self._said = time.monotonic()

    def _forget(self, batch: Sequence[tuple[str, str]]) -> None:
        """Those of a batch that still wait; some may have been dropped meanwhile, which are none that are missing."""
        with self._changed:
            for item in batch:
                if self._lines and self._lines[0] is item:
                    self._lines.popleft()
                else:
                    self._dropped -= 1


class _Stays(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: a POST that is led on becomes a GET without its lines, and takes along who sends."""

    def redirect_request(self, *_: object) -> None:
        return None


class WebSender(Sender):
    """POSTs lines that came together as one body of JSON lines.

    Who sends is told by the address, USER:PASSWORD@HOST, or by a token in the environment.
    """

    def __init__(self, url: str, out: Callable[[str], None]):
        parts = urlsplit(url)
        who, _, host = parts.netloc.rpartition("@")
        self._url = urlunsplit(parts._replace(netloc=host))
        self._opener = urllib.request.build_opener(_Stays)
        self._headers = {"Content-Type": "application/x-ndjson", "User-Agent": "l2g"}
        if who:
            self._headers["Authorization"] = f"Basic {base64.b64encode(unquote(who).encode()).decode()}"
        elif token := os.environ.get(TOKEN_VARIABLE):
            self._headers["Authorization"] = f"Bearer {token}"
        super().__init__(url, out)

    def send(self, lines: Sequence[tuple[str, str]], seconds: float) -> None:
        body = "".join(f"{line}\n" for _, line in lines).encode()
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                answer.read(1024)
        except urllib.error.HTTPError as error:
            error.close()
            # Too slow, too many, or its own fault: these may pass.
            if error.code in (408, 429) or error.code >= 500:
                raise OSError(f"{error.code} {error.reason}") from None
            leads = error.headers.get("Location") if 300 <= error.code < 400 else None
            mend = f"; give the address {without_password(shown(urljoin(self._url, leads)))}" if leads else ""
            raise ValueError(f"{error.code} {error.reason}{mend}") from None
        except urllib.error.URLError as error:
            raise OSError(getattr(error.reason, "strerror", None) or str(error.reason)) from None
        except http.client.HTTPException as error:  # an answer that is none
            raise OSError(f"{type(error).__name__} {error}".strip()) from None


class MqttSender(Sender):
    """Publishes each line to TOPIC, or with several streams TOPIC/STREAM, once the broker has confirmed it (QoS 1)."""

    def __init__(self, url: str, out: Callable[[str], None]):
        try:
            from paho.mqtt import client as mqtt
        except ModuleNotFoundError:
            raise VideoError(f"--send {without_password(url)}: needs paho-mqtt; pip install 'l2g[mqtt]'") from None
        parts = urlsplit(url)
        self._host, secure = parts.hostname or "", parts.scheme == "mqtts"
        self._port = parts.port or (8883 if secure else 1883)
        self._topic = parts.path.strip("/")
        self._mqtt: Any = mqtt
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.connect_timeout = _PATIENCE
        self._begun = False
        if secure:
            self._client.tls_set()
        if parts.username:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        super().__init__(url, out)

    def send(self, lines: Sequence[tuple[str, str]], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        if not self._begun:
            self._client.connect(self._host, self._port)
            self._client.loop_start()
            self._begun = True
        while not self._client.is_connected():
            if time.monotonic() > deadline:
                raise OSError("the broker does not answer, or refuses the connection")
            time.sleep(0.01)
        sent = [self._client.publish(self._topic_of(stream), line, qos=1) for stream, line in lines]
        for message in sent:
            with contextlib.suppress(RuntimeError):  # the connection was lost: it is not published then
                message.wait_for_publish(max(0.0, deadline - time.monotonic()))
            if message.rc != self._mqtt.MQTT_ERR_SUCCESS or not message.is_published():
                raise OSError("the broker does not confirm")

    def disconnect(self) -> None:
        if self._begun:
            self._client.disconnect()
            self._client.loop_stop()

    def _topic_of(self, stream: str) -> str:
        # What a topic may not hold.
        return f"{self._topic}/{stream.translate(str.maketrans('+#/', '___'))}" if stream else self._topic
