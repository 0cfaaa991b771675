"""A second source of rows: the text of a run, tokenised on the way by Ray Data.

For a first look at a corpus, or one that is too large to be written twice. What it lacks beside `PackedReader`:
a stop loses the place in the epoch, because Ray Data's iterators cannot go on where they were; the order is
that of the shards' blocks; and the documents that are packed together are those of a batch, whose last row is
filled up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from malmoi.operators.packing import Carry, Rows, concat, pad
from malmoi.operators.tokenizing import Encoder, load_encoder
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.manifest import Manifest
from malmoi.pipeline.storage import Folder

from .reader import Batch, to_batch

_DOCUMENTS = 1024


@dataclass(frozen=True)
class Pack:
    """For `map_batches`: a table with `text` to rows input_ids, labels int32 [S] and doc_starts."""

    encoder: Encoder
    seq_len: int

    def __call__(self, table: pa.Table) -> pa.Table:
        ids, offsets = self.encoder.encode(table.column("text"))
        filled = np.concatenate([offsets[:1], offsets[1:][np.diff(offsets) > 0]])
        eos = self.encoder.eos_id
        rows, carry = concat(ids, filled, self.seq_len, Carry(), before=None, after=eos)
        pad_id = eos if self.encoder.pad_id is None else self.encoder.pad_id
        return pa.concat_tables([self._table(rows), self._table(pad(carry, self.seq_len, pad_id))])

    def _table(self, rows: Rows) -> pa.Table:
        labels = rows.input_ids if rows.labels is None else rows.labels
        wide = [
            pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), self.seq_len)
            for x in (rows.input_ids, labels)
        ]
        starts = pa.ListArray.from_arrays(rows.first.astype(np.int32), rows.starts)
        return pa.table([*wide, starts], names=["input_ids", "labels", "doc_starts"])


def stream_rows(
    run: str, tokenizer: str, seq_len: int, *, options: Mapping[str, Any] | None = None, num_cpus: float = 1.0
) -> Any:
    """A `ray.data.Dataset` of rows of a finished run's corpus; nothing is read before it is iterated.

    For Ray Train: `TorchTrainer(datasets={"train": stream_rows(...)})`, in a worker
    `RayReader(ray.train.get_dataset_shard("train"), batch_rows)`. `num_cpus`: of each tokenising task.
    """
    import ray.data

    folder = Folder(run, dict(options or {}))
    manifest = Manifest.load(folder)
    manifest.verify(folder)
    files = manifest.corpus_files(folder)
    odd = [name for name in files if not name.endswith(".parquet")]
    if odd:
        raise MalmoiError(
            f"{odd[0]}: want a corpus in Parquet (write: {{format: parquet}}); or tokenize it first"
        )
    pack = Pack(load_encoder(tokenizer), seq_len)
    found: dict[str, Any] = {}
    if not folder.is_local:
        import fsspec

        found["filesystem"], _ = fsspec.core.url_to_fs(folder.url, **folder.options)
    text = ray.data.read_parquet(files, **found).select_columns(["text"])
    return text.map_batches(pack, batch_size=_DOCUMENTS, batch_format="pyarrow", num_cpus=num_cpus)


class RayReader:
    """Iterates `Batch`es of a dataset's rows (or of a worker's shard of it), one epoch a call of `iter`.

    The last batch of an epoch may have fewer rows. `samples_seen`: rows handed out by this reader.
    """

    def __init__(self, rows: Any, batch_rows: int, *, shuffle_rows: int = 0, seed: int = 0) -> None:
        self.source, self.batch_rows = rows, batch_rows
        self.shuffle_rows, self.seed = shuffle_rows, seed
        self.samples_seen = 0

    def seek(self, samples_seen: int) -> None:
        """Only to the beginning of an epoch (0); MalmoiError else."""
        if samples_seen:
            raise MalmoiError(
                f"a stream of Ray Data cannot go on at sample {samples_seen:,}: tokenize the corpus first, and use "
                "PackedReader"
            )
        self.samples_seen = 0

    def __iter__(self) -> Iterator[Batch]:
        shuffle = (
            {"local_shuffle_buffer_size": self.shuffle_rows, "local_shuffle_seed": self.seed}
            if self.shuffle_rows
            else {}
        )
        for table in self.source.iter_batches(batch_size=self.batch_rows, batch_format="pyarrow", **shuffle):
            self.samples_seen += table.num_rows
            yield to_batch(table)
