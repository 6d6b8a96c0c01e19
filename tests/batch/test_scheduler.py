"""What becomes of tasks whose worker dies, fails or is slow: a real Ray on this machine, workers that do as told."""

from collections import Counter
from functools import partial

import pytest

from l2g.batch.records import DONE, FAILED, Entry
from l2g.batch.scheduler import Resources, Scheduler
from l2g.errors import L2GError
from tests.batch.made import Scripted

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def two_cores():
    from l2g.batch.cluster import cluster

    with cluster(None, 2):
        yield


class Unopened:
    def ready(self):
        raise L2GError("no such model")


def settle(folder, *names, retries=2, copies=True):
    """What became of the videos, and how often each was begun."""
    outcomes, said = [], []
    scheduler = Scheduler(
        partial(Scripted, folder), Resources(2, retries=retries, copies=copies), outcomes.append, said.append
    )
    scheduler.run(iter([Entry(f"{name}.mp4", name) for name in names]))
    begun = {name: len((folder / name).read_text().splitlines()) for name in names}
    assert Counter(outcome.record.name for outcome in outcomes) == Counter(names), "each is settled once"
    return {outcome.record.name: outcome.record for outcome in outcomes}, begun


def test_a_worker_that_dies_costs_what_it_had_in_hand(two_cores, tmp_path):
    names = [f"fine-{number}" for number in range(20)]
    records, begun = settle(tmp_path, *names[:10], "once-a", *names[10:], "dies-b", "once-c")
    assert {name for name, record in records.items() if record.status != DONE} == {"dies-b"}
    assert begun == dict.fromkeys(names, 1) | {"once-a": 2, "once-c": 2, "dies-b": 3}
    assert (records["once-a"].attempts, records["dies-b"].attempts) == (2, 3)
    assert records["dies-b"].error.startswith("dies-b.mp4: given up after 3 attempts: its worker died (")


def test_a_store_that_fails_is_tried_again_by_a_worker_that_lives_on(two_cores, tmp_path):
    records, begun = settle(tmp_path, "raises-a", "fine-b", retries=1)
    assert (records["raises-a"].status, records["fine-b"].status) == (FAILED, DONE)
    assert begun == {"raises-a": 2, "fine-b": 1}
    assert "2 attempts: OSError: the store is away" in records["raises-a"].error
    assert len({line for name in begun for line in (tmp_path / name).read_text().splitlines()}) <= 2


def test_a_free_worker_takes_a_second_copy_of_what_is_slow(two_cores, tmp_path, monkeypatch):
    monkeypatch.setattr("l2g.batch.scheduler.SLOW_SECONDS", 0.5)
    records, begun = settle(tmp_path, "slow-a", "fine-b")
    assert records["slow-a"].status == DONE
    assert begun == {"slow-a": 2, "fine-b": 1}


def test_workers_that_die_one_after_the_other_end_the_run(two_cores, tmp_path, monkeypatch):
    monkeypatch.setattr("l2g.batch.scheduler.MOST_DEATHS", 2)
    with pytest.raises(L2GError, match="3 workers died one after the other"):
        settle(tmp_path, "dies-a", "dies-b", "dies-c")


def test_a_model_that_cannot_be_opened_ends_the_run_in_its_own_words(two_cores):
    scheduler = Scheduler(Unopened, Resources(1), print, print)
    with pytest.raises(L2GError, match=r"^no such model$"):
        scheduler.run(iter([Entry("a.mp4", "a")]))
