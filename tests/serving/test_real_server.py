"""The real tritonserver: sequences of several clients, interleaved, ending, timing out, restarting, too many."""

import itertools
import json
import re
import shutil
import threading
import time

import cv2
import numpy as np
import pytest

import l2g
from l2g.errors import L2GError
from l2g.runtime.video.results import line_of
from l2g.runtime.video.source import open_source
from l2g.serving.client import TritonTracker
from l2g.serving.options import ServingOptions
from l2g.serving.repository import write_repository
from tests.serving import real_server
from tests.serving.graphs import tiny_graph
from tests.serving.same import content

pytestmark = pytest.mark.skipif(real_server.missing() is not None, reason=f"{real_server.missing()}")

CLIP = real_server.ROOT / "examples/demo/clip.mp4"
# Options by the model's name; each is the same graph.
MODELS = {
    "direct": ServingOptions(streams=2),
    "oldest": ServingOptions(streams=8, batch=3, strategy="oldest", delay=0.005),
    "brief": ServingOptions(streams=2, batch=1, instances=2, idle=1.0, warm_up=False),
    "served": ServingOptions(backend="onnxruntime", streams=8, batch=3, strategy="oldest"),
    "served_brief": ServingOptions(backend="onnxruntime", streams=2, idle=1.0),
}
# In the place of ONNX Runtime's backend, which the wheel does not have: a model in the Python backend with the very
# configuration, which keeps the state as that one would and takes its validity input from the server's control.
STAND_IN = """
import numpy as np, onnxruntime, triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        folder = f"{args['model_repository']}/{args['model_version']}"
        self.session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.states = {}

    def execute(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        value = lambda name: pb.get_input_tensor_by_name(request, name).as_numpy()
        feeds = {name: value(name) for name in ("frames", "prior_queries", "prior_boxes", "prior_valid")}
        assert feeds["prior_valid"].shape == (1, 1) and feeds["prior_valid"].dtype == np.float32
        if feeds["prior_valid"][0, 0]:
            feeds.update(self.states[request.correlation_id()])
        else:
            assert not feeds["prior_queries"].any() and not feeds["prior_boxes"].any()
        outputs = dict(zip(self.names, self.session.run(None, feeds)))
        self.states[request.correlation_id()] = {f"prior_{n}": outputs[n] for n in ("queries", "boxes")}
        if request.flags() & pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            del self.states[request.correlation_id()]
        return pb.InferenceResponse([pb.Tensor(n, outputs[n]) for n in request.requested_output_names()])
"""


def _stand_in(folder):
    config = folder / "config.pbtxt"
    text = config.read_text()
    assert text.count('platform: "onnxruntime_onnx"') == 1
    config.write_text(text.replace('platform: "onnxruntime_onnx"', 'backend: "python"'))
    (folder / "1/model.py").write_text(STAND_IN)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, options in MODELS.items():
        copy = folder / f"{name}.onnx"
        shutil.copy(tiny_graph(), copy)
        write_repository([copy], folder / "repository", options)
    for graph in (folder / "repository").glob("*_graph"):
        _stand_in(graph)
    return folder / "repository"


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    with real_server.running(repository, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def frames():
    with open_source(CLIP) as source:
        return [frame.image for _, frame in zip(range(24), source, strict=False)]


@pytest.fixture(scope="module")
def alone(frames):
    """Frames -> their results in this process, one stream alone."""
    with l2g.Tracker(str(tiny_graph()), device="cpu") as tracker:
        count = iter(range(1000))

        def run(images):
            stream = next(count)
            return [content(tracker.update(image, i / 10, stream)) for i, image in enumerate(images)]

        yield run


def _all_through(client, images, stream=None):
    return [content(client.update(image, i / 10, stream)) for i, image in enumerate(images)]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_clip_gives_what_process_video_gives(server, protocol, tmp_path):
    l2g.process_video(str(tiny_graph()), CLIP, tmp_path, overlay=False, end=1.0)
    expected = (tmp_path / "frames.jsonl").read_text().splitlines()
    with open_source(CLIP) as source, TritonTracker(getattr(server, protocol), "direct") as client:
        shown = itertools.islice(source, len(expected))
        got = [line_of(client.update(frame.image, frame.time), client.class_names) for frame in shown]
    assert got == expected
    assert sum(len(json.loads(line)["tracks"]) for line in got) > 0
    assert server.streams_become("direct", 0)


@pytest.mark.parametrize("model", ["oldest", "served"])
def test_six_sequences_of_three_clients_in_turns(server, frames, alone, model):
    """Each client drives two streams of its own size and direction, as fast as it can; batches form as they come."""
    videos = {
        f"{side}{turned}": [cv2.resize(image, (side, side * 3 // 5)) for image in frames[:12][::turned]]
        for side in (160, 320, 200)
        for turned in (1, -1)
    }
    got, errors = {name: [] for name in videos}, []

    def drive(names):
        try:
            with TritonTracker(server.grpc, model) as client:
                for i in range(12):
                    for name in names:
                        got[name].append(content(client.update(videos[name][i], i / 10, name)))
        except Exception as error:
            errors.append(error)

    names = list(videos)
    threads = [threading.Thread(target=drive, args=(names[at : at + 2],)) for at in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    for name, images in videos.items():
        assert got[name] == alone(images), name
    assert server.streams_become(model, 0)


def test_the_client_of_the_page(server, capsys):
    page = (real_server.ROOT / "docs/guides/serving.md").read_text()
    code = page[page.index("<!-- served -->") :].split("```")[1].removeprefix("python\n")
    for said, meant in (
        ("grpc://localhost:8001", server.grpc),
        ('"l2g_tiny"', '"direct"'),
        ("examples/demo/clip.mp4", CLIP),
    ):
        assert code.count(said) == 1
        code = code.replace(said, str(meant))
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 90
    assert all(re.match(r"\d+ [a-z ]+ 0\.\d+ \(\d+, ", line) for line in lines)


def test_pictures_give_what_a_folder_of_them_gives(server, frames, tmp_path):
    for i, image in enumerate(frames[:5]):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image[..., ::-1])
    l2g.process_video(str(tiny_graph()), tmp_path, tmp_path / "out", overlay=False)
    expected = (tmp_path / "out/frames.jsonl").read_text().splitlines()
    with TritonTracker(server.grpc, "direct") as client:
        got = [
            line_of(client.update((tmp_path / f"{i}.jpg").read_bytes(), i / 30), client.class_names) for i in range(5)
        ]
        with pytest.raises(L2GError, match="no whole picture"):
            client.update(b"no picture")
    assert got == expected


def test_what_is_refused_leaves_the_stream_as_it_was(server, frames, alone):
    expected = alone(frames[:3])
    with TritonTracker(server.http, "direct") as client:
        assert _all_through(client, frames[:2]) == expected[:2]
        with pytest.raises(L2GError, match="another aspect ratio"):
            client.update(np.zeros((64, 300, 3), np.uint8))
        with pytest.raises(L2GError, match=r"float64 \[2, 2\]"):
            client.update(np.zeros((2, 2)))
        assert content(client.update(frames[2], 0.2)) == expected[2]


def test_reset_ends_and_begins(server, frames):
    with l2g.Tracker(str(tiny_graph()), device="cpu") as local, TritonTracker(server.grpc, "direct") as remote:
        for i, image in enumerate(frames[:8]):
            if i == 4:
                local.reset()
                remote.reset()
            expected = content(local.update(image, i / 10))
            assert content(remote.update(image, i / 10)) == expected
        assert min(row[0] for row in expected[-1]) > 1
        assert server.streams("direct") == 1
        remote.leave()
        assert server.streams_become("direct", 0)
        assert content(remote.update(frames[0], 0.0))[0] == 0


@pytest.mark.parametrize("model", ["brief", "served_brief"])
def test_a_stream_that_fell_silent(server, frames, alone, model):
    """Its state goes without a further request; the client is told, and begins anew with ids that go on."""
    expected = alone(frames[:6])
    with TritonTracker(server.grpc, model) as client:
        first = [client.update(image, i / 10) for i, image in enumerate(frames[:6])]
        assert [content(result) for result in first] == expected
        assert server.streams(model) == 1
        assert server.streams_become(model, 0, within=8)
        for _ in range(2):
            with pytest.raises(L2GError, match=r"not known to the server any more.*call reset\(\)"):
                client.update(frames[6], 0.6)
        client.reset()
        again = client.update(frames[0], 0.7)
    assert again.index == 6
    newest = max(track.track_id for result in first for track in result.tracks)
    assert [t.track_id for t in again.tracks] == [newest + row[0] for row in expected[0][-1]]
    assert [t.score for t in again.tracks] == [row[3] for row in expected[0][-1]]


def test_more_sequences_than_slots(server, frames, alone):
    """Two have the slots; the third is told after its timeout, and gets one when one is free."""
    images = frames[:4]
    one, two = TritonTracker(server.grpc, "direct"), TritonTracker(server.http, "direct")
    third = TritonTracker(server.grpc, "direct", timeout=0.7)
    with third, two:
        one_first, two_first = _all_through(one, images[:2]), _all_through(two, images[:2])
        with pytest.raises(L2GError, match=r"within 0\.7 s.*every slot of the server is taken"):
            third.update(images[0], 0.0)
        assert content(one.update(images[2], 0.2)) == alone(images)[2]
        one.close()
        assert server.streams_become("direct", 1)
        with TritonTracker(server.grpc, "direct") as fourth:
            assert _all_through(fourth, images) == alone(images)
        assert one_first == two_first == alone(images)[:2]


def test_a_request_that_is_a_batch(server):
    import tritonclient.grpc as library

    client = library.InferenceServerClient(server.grpc.removeprefix("grpc://"))
    tensor = library.InferInput("FRAME", [2, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(Exception, match="must specify batch-size 1"):
        client.infer("direct", [tensor], sequence_id=5, sequence_start=True)
    client.close()


def test_a_start_in_the_middle_is_a_new_stream(server, frames, alone):
    """A client that was started again under the correlation id of before."""
    with TritonTracker(server.grpc, "direct") as client:
        _all_through(client, frames[:5])
        (entry,) = client._streams.values()
        entry.begun = False
        assert _all_through(client, frames[:3]) == alone(frames[:3])
        assert server.streams("direct") == 1


def test_a_server_that_is_started_again(repository, frames, tmp_path):
    only = tmp_path / "repository"
    only.mkdir()
    shutil.copytree(repository / "brief", only / "brief")
    with real_server.running(only, tmp_path) as server:
        client = TritonTracker(server.grpc, "brief", timeout=10)
        client.update(frames[0])
    with pytest.raises(L2GError, match="no Triton server answers here"):
        client.update(frames[1])
    ports = (server.http_port, server.grpc_port, server.metrics_port)
    with real_server.running(only, tmp_path, ports=ports), client:
        # A channel that was broken is tried again after a while.
        said, limit = "", time.monotonic() + 20
        while "not known to the server any more" not in said:
            assert time.monotonic() < limit, said
            with pytest.raises(L2GError) as caught:
                client.update(frames[1])
            said = str(caught.value)
        client.reset()
        assert client.update(frames[0]).index == 1


def test_what_the_server_has_not(server):
    with pytest.raises(L2GError, match="nowhere"):
        TritonTracker(server.grpc, "nowhere")
    with pytest.raises(L2GError, match="model 'served_graph' of the server has no output 'TRACK_IDS'"):
        TritonTracker(server.http, "served_graph")
    with pytest.raises(L2GError, match="no Triton server answers here"):
        TritonTracker("grpc://127.0.0.1:9", "direct", timeout=2)
    with pytest.raises(L2GError, match="no Triton server answers here"):
        TritonTracker("http://127.0.0.1:9", "direct", timeout=2)
    with pytest.raises(L2GError, match="grpc://HOST:PORT"):
        TritonTracker("127.0.0.1:8001", "direct")
