"""A bounded share of the mutations, with seeds of its own; `python -m tests.mutations` runs as many as one likes."""

import shutil

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from tests.exported import small_graph
from tests.mutations.__main__ import one
from tests.mutations.child import Forks
from tests.mutations.families import FAMILIES
from tests.mutations.originals import Originals, run_words
from tests.mutations.resumed import unfinished

# Those that go on with something or need more libraries have fewer.
CASES = {"configs": 6, "safetensors": 14, "pth": 12, "converted": 8, "panoptic": 8, "class_maps": 4, "memories": 5,
         "resume_files": 2, "ledgers": 2, "checks": 4, "cameras": 6, "repositories": 6, "videomt": 4,
         "lists": 4, "options": 12, "swins": 6}  # fmt: skip
# What has to search or to build first takes longer than the suite has; `python -m tests.mutations` has them.
LONG = ("search_logs", "caches")
# A damaged memory is none, and the run begins anew.
NEVER_REFUSED = ("videos", "pictures", "memories", "ledgers", "checks", "resume_files", "videomt", "lists")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Originals.made(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def forks():
    with Forks() as running:
        yield running


def test_what_is_spoiled_was_good(forks, good, tmp_path):
    """A public checkpoint that nobody could load would show nothing."""
    words = ["run", "--model", good.public, "--input", good.clip, "--output", tmp_path / "out", "--num-queries=10"]
    outcome = forks.outcome_of([*map(str, words), "--quiet"], tmp_path / "log", tmp_path / "out")
    assert outcome.kind == "result", outcome.text


def test_what_is_gone_on_with_was_good(forks, good, tmp_path):
    """A memory that nobody takes would show nothing."""
    shutil.copytree(unfinished(good.folder, good.clip), tmp_path / "out")
    words = [*run_words(small_graph(), good.clip, tmp_path), "--resume"]
    outcome = forks.outcome_of(words, tmp_path / "log", tmp_path / "out")
    assert outcome.kind == "result", outcome.text
    assert "went on after 4 frames" in outcome.text


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in LONG])
def test_a_result_or_one_clear_error(forks, good, family, tmp_path):
    ended = set()
    for number in range(CASES.get(family, 18)):
        words, outcome = one(forks, good, family, f"suite.{number}", tmp_path / str(number))
        assert outcome.good, f"{outcome.kind}: {words}\n{outcome.text}"
        ended.add(outcome.kind)
    assert "error" in ended or family in NEVER_REFUSED, "nothing was refused, so nothing was spoiled"
