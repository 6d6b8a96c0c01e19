"""Ray, started for one run or joined: nothing of it is left behind, says anything to anybody, or takes our signals."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from l2g.errors import L2GError

# Ray keeps results of tasks in shared memory; ours have some hundred bytes. This is the least that it takes.
_OBJECT_STORE_BYTES = 80 << 20


@contextmanager
def cluster(address: str | None, cores: int | None) -> Iterator[None]:
    """A cluster for the block: this machine's own that ends with it, or the one at `address`.

    cores: of this machine's own; None is what Ray finds. The own one listens on the loopback address alone, and its
    files are away afterwards. L2GError where there is no cluster at the address.
    """
    # Before the import, which reads them. The last keeps a cluster of one machine off its network.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Nobody looks at Ray's list of tasks, and the driver's part of it grows by 10 MiB in 5,000 videos.
    os.environ["RAY_task_events_report_interval_ms"] = "0"  # noqa: SIM112 (Ray's name)
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    with ExitStack() as stack:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        with _own_signals():
            if address is not None:
                stack.callback(ray.shutdown)
                try:
                    ray.init(address=address, **quiet)
                except (ConnectionError, RuntimeError, ValueError) as error:
                    reason = str(error).splitlines()[0]
                    raise L2GError(
                        f"{address}: no Ray cluster there ({reason}); start one with: ray start --head"
                    ) from None
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="l2g-ray-", ignore_cleanup_errors=True))
                # The folder goes after Ray has ended.
                stack.callback(ray.shutdown)
                ray.init(
                    address="local",
                    num_cpus=cores,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                    **quiet,
                )
        yield


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler of SIGTERM of its own, which would end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, before)
