import os

import pytest

# Read when Ray is imported, which tests do before `l2g.batch.cluster` says it: Ray stays on the loopback address.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

BUCKET = "s3://clips"


@pytest.fixture(scope="session")
def s3():
    """A real S3 server on the loopback address, in the environment of this process and its children."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    facts = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing"}
    facts |= {"AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in facts.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="clips")
        yield client
    running.stop()


@pytest.fixture
def bucket(s3):
    return BUCKET


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """`l2g_tiny` as a graph for small clips: the models that are made for tests track nothing."""
    pytest.importorskip("onnx")
    from benchmarks.batch import export_tiny

    return export_tiny(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Twelve clips of eight frames."""
    from benchmarks.batch import write_clips

    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 12)
    return folder
