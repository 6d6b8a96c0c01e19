"""`manifest.parquet`: a row a video, written as they come, so that memory does not grow with them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from l2g.batch.records import Outcome
from l2g.batch.store import Store

MANIFEST = "manifest.parquet"
# Rows that wait before they are written. The first ones sooner: what Arrow keeps from then on, 6 MiB, then shows early.
_ROWS, _FIRST_ROWS = 250, 100


class Manifest:
    """A context manager; whatever ends the block, the file holds the rows so far, and takes its name then.

    Without a row what lay there before stays.
    """

    def __init__(self, store: Store):
        import pyarrow
        import pyarrow.parquet as parquet

        text, number = pyarrow.string(), pyarrow.int32()
        self._schema = pyarrow.schema(
            [
                pyarrow.field("name", text, nullable=False),
                pyarrow.field("source", text, nullable=False),
                pyarrow.field("status", text, nullable=False),
                pyarrow.field("frames", pyarrow.int64(), nullable=False),
                pyarrow.field("tracks", pyarrow.int64(), nullable=False),
                pyarrow.field("seconds", pyarrow.float64(), nullable=False),
                pyarrow.field("error", text),
                pyarrow.field("pieces", number, nullable=False),
                pyarrow.field("attempts", number, nullable=False),
                pyarrow.field("worker", text, nullable=False),
                pyarrow.field("before", pyarrow.bool_(), nullable=False),
            ]
        )
        self._table, self._store = pyarrow.Table, store
        self._folder = tempfile.TemporaryDirectory(prefix="l2g-batch-")
        self._path = Path(self._folder.name) / MANIFEST
        self._writer = parquet.ParquetWriter(self._path, self._schema, compression="zstd", write_statistics=False)
        self._rows: list[dict[str, Any]] = []
        self._empty, self._most = True, _FIRST_ROWS

    def add(self, outcome: Outcome) -> None:
        self._empty = False
        row = vars(outcome.record) | {"before": outcome.before}
        self._rows.append({name: row[name] for name in self._schema.names})
        if len(self._rows) >= self._most:
            self._write()
            self._most = _ROWS

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, self._schema))
            self._rows.clear()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._folder:
            self._write()
            self._writer.close()
            if not self._empty:
                self._store.put(self._path, MANIFEST)
