"""What lies in deploy/ is what its tools take, and its commands are what `l2g` takes. None of it is started here."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from l2g.cli.commands import BY_NAME
from l2g.cli.entry import parser_of
from l2g.runtime.video.live.board import Board

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
KUBERNETES = "1.33"


def parsed(words):
    """By the command's own parser; what the shell fills in is a word."""
    words = [re.sub(r"\$\{\w+(:[-?])?([^}]*)\}", lambda match: match[2] or "x", word) for word in words]
    return parser_of(BY_NAME[words[0]]).parse_args(words[1:])


def test_the_dockerfiles_pass_hadolint():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    assert len(DOCKERFILES) == 4
    done = subprocess.run([hadolint, *map(str, DOCKERFILES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_extras_of_the_dockerfiles_are_there(path):
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"'\.\[([\w,]+)\]'", path.read_text())
    assert set(named.split(",")) <= set(extras)


def test_the_compose_file_keeps_the_specification_and_its_files_are_there():
    compose = pytest.importorskip("compose_spec")
    text = (DEPLOY / "compose.yaml").read_text()
    compose.PyCompose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="porst"):
        compose.PyCompose.from_yaml(text.replace("    ports:", "    porst:")).validate()
    services = yaml.safe_load(text)["services"]
    mounts = [mount.split(":")[0] for service in services.values() for mount in service["volumes"]]
    files = [DEPLOY / mount for mount in mounts if mount.startswith(".") and mount != "./models"]
    assert len(files) == 5
    assert [file for file in files if not file.is_file()] == []
    assert (DEPLOY / services["l2g"]["build"]["context"] / services["l2g"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_volumes_of_the_compose_file_belong_to_the_user_of_the_image(path):
    """A folder that the image lacks is made for a volume, and is root's."""
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["l2g"]["volumes"]
    named = {where for what, where in (volume.split(":")[:2] for volume in volumes) if not what.startswith(".")}
    assert named == {"/work/results"}
    text = path.read_text()
    (user,) = re.findall(r"--uid (\d+)[^\n]* l2g\b", text)
    assert f"\nUSER {user}\n" in text
    (folders,) = re.findall(r"install -d -o l2g -g l2g (.*)", text)
    assert named <= set(folders.split())


def test_the_command_of_the_compose_file_is_one():
    options = parsed(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["l2g"]["command"])
    assert options.input == ["rtsp://camera:8554/camera"]
    assert options.serve == "0.0.0.0:8080"
    assert options.reconnect == -1


def test_prometheus_and_grafana_ask_for_what_there_is():
    scraped = yaml.safe_load((DEPLOY / "monitoring/prometheus.yaml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["l2g:8080"]
    assert scraped["authorization"]["credentials_file"] == "/run/secrets/l2g_token"
    offered = set(re.findall(r"# TYPE (\w+)", Board(print).metrics()))
    dashboard = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
    asked = {name for panel in dashboard["panels"] for each in panel["targets"]
             for name in re.findall(r"l2g_\w+", each["expr"])}  # fmt: skip
    assert len(asked) == len(dashboard["panels"]) == 7
    assert asked <= offered
    source = yaml.safe_load((DEPLOY / "monitoring/datasources.yaml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}


def test_the_job_of_kubernetes():
    """Kubernetes' own schemas know no RayJob: its pods are held to those of pods."""
    kubernetes = pytest.importorskip("kubernetes_validate")
    claim, job = yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text())
    kubernetes.validate(claim, KUBERNETES, strict=True)
    cluster = job["spec"]["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"], *(each["template"] for each in cluster["workerGroupSpecs"])]
    assert len(templates) == 2
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | template
        kubernetes.validate(pod, KUBERNETES, strict=True)
        pod["spec"]["containers"][0]["imagePull"] = "Always"
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(pod, KUBERNETES, strict=True)
    options = parsed(shlex.split(job["spec"]["entrypoint"])[1:])
    assert (options.address, options.input, options.output) == ("auto", "s3://videos/in", "s3://videos/out")
    ray = pytest.importorskip("ray")
    assert cluster["rayVersion"] == ray.__version__
