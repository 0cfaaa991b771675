"""A finished run, read back: its corpus, what was dropped and why, its duplicates, the fate of a document."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from malmoi.operators import OPERATORS
from malmoi.operators.config import did_you_mean
from malmoi.operators.contract import DROP, LANGUAGE, Operator, judge

from . import html
from .config import build_steps, parse_recipe
from .errors import MalmoiError, SourceError
from .evidence import Duplicates, Why
from .extras import wanted
from .figures import headline, sheets
from .manifest import Manifest
from .removed import DECIDED, DUPLICATES, least_similar, texts_of
from .shards import part_file
from .signal_view import SignalView, limits_of
from .storage import Folder, file_system
from .why import find, read_plan

if TYPE_CHECKING:
    import pyarrow.dataset


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run in its folder. `report`: wall seconds by stage and in all (`total`)."""

    manifest: Manifest
    folder: Folder
    report: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def load(run: str | Folder, options: Mapping[str, Any] | None = None) -> Result:
        """Of the folder (a path or an fsspec URL with its `options`) of a run, wherever it was made.

        MalmoiError where it holds no finished run.
        """
        folder = run if isinstance(run, Folder) else Folder(str(run), options or {})
        try:
            manifest = Manifest.load(folder)
        except MalmoiError:
            raise
        except Exception as error:  # of many classes, by the driver of a remote store
            raise SourceError(f"{folder.url}: cannot be read ({type(error).__name__}: {error})") from error
        report = json.loads(folder.read_bytes("report.json")) if folder.exists("report.json") else {}
        return Result(manifest, folder, report)

    def corpus(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The documents of the corpus in its order, in memory; `dataset` reads them piece by piece."""
        tables = [self._shard(output.path, columns) for output in self.manifest.corpus]
        if not tables:
            raise MalmoiError(f"{self.folder.url}: the corpus is empty; reasons() tells why")
        return pa.concat_tables(tables, promote_options="default")

    def dataset(self) -> pyarrow.dataset.Dataset:
        """The shards as a pyarrow Dataset, for filters and batches; MalmoiError where they are jsonl.zst."""
        import pyarrow.dataset as ds  # loads pandas

        paths = [output.path for output in self.manifest.corpus]
        if not all(path.endswith(".parquet") for path in paths):
            raise MalmoiError(
                "dataset: the corpus is jsonl.zst, which pyarrow reads whole only; use corpus()"
            )
        fs, top = file_system(self.folder.url, self.folder.options)
        return ds.dataset([f"{top}/{path}" for path in paths], format="parquet", filesystem=fs)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """The corpus as a pandas DataFrame; MalmoiError naming the extra without pandas."""
        wanted("pandas", "to_pandas")
        return self.corpus(columns).to_pandas()

    def dropped(self, reason: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """What is not in the corpus, with every signal, the reason in `drop`, and for a duplicate the survivor.

        `reason`: one, or how some begin (`gopher_quality`); MalmoiError where no document has such a one.
        """
        if reason:
            known = self.reasons()
            if not any(name.startswith(reason) for name in known):
                raise MalmoiError(
                    f"dropped: nothing was dropped for {reason!r}{did_you_mean(reason, list(known))}"
                )
        names = [output.path for output in self.manifest.others if output.path.startswith("dropped/")]
        if isinstance(columns, str):
            raise MalmoiError(f"columns: want a list of names, got the string {columns!r}")
        read = list(dict.fromkeys([*columns, DROP])) if columns is not None else None
        tables = [_starting(table, reason) for name in names for table in _groups(self.folder, name, read)]
        found = pa.concat_tables(tables) if tables else pa.table({DROP: pa.array([], pa.large_string())})
        return found.select(list(columns)) if columns is not None and tables else found

    def quarantined(self) -> pa.Table:
        """The records that could not be read or have no unique id, with reason, file and offset."""
        names = [output.path for output in self.manifest.others if output.path.startswith("quarantine/")]
        tables = [table for name in names for table in _groups(self.folder, name, None)]
        return pa.concat_tables(tables) if tables else pa.table({"reason": pa.array([], pa.large_string())})

    def reasons(self) -> dict[str, int]:
        """Documents by the reason for which they are not in the corpus, commonest first."""
        counts: dict[str, int] = {}
        for book in self.manifest.books:
            for name, count in book.dropped.items():
                counts[name] = counts.get(name, 0) + count
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def duplicates(self, limit: int = 100) -> Duplicates:
        """The first `limit` removed duplicates beside the documents that stayed, the least similar first."""
        if limit < 1:
            raise MalmoiError(f"duplicates: want limit >= 1, got {limit}")
        names = [output.path for output in self.manifest.others if output.path.endswith(DECIDED)]
        shown = least_similar(self.folder, names, limit)
        total = sum(count for name, count in self.reasons().items() if name.startswith(DUPLICATES))
        keys = list(
            zip(shown["duplicate_source"].to_pylist(), shown["duplicate_of"].to_pylist(), strict=True)
        )
        texts = texts_of(self.folder, self._plan()["parts"], set(keys))
        stays = pa.array([texts.get(key) for key in keys], pa.large_string())
        return Duplicates(shown.append_column("stays", stays), total)

    def why(self, id: str, source: str | None = None) -> Why:
        """What happened to a document: its signals against their limits, the reason, its survivor, its part.

        SourceError where the run has no document with this id.
        """
        fates = tuple(find(self.folder, str(id), source))
        if not fates:
            raise SourceError(
                f"{self.folder.url}: no document with id {id!r}" + (f" in {source!r}" if source else "")
            )
        return Why(fates, self.folder, self._steps())

    def signals(self, operator: str) -> SignalView:
        """The signals that the run kept of one of its operators, over all documents that it read.

        No text is read. A threshold can be moved on it as on `signals(table, operator)`; the documents that
        another operator drops are counted apart.
        """
        steps = self._steps()
        chosen = [x for x in steps if operator == x.name or type(x) is OPERATORS.get(operator)]
        if not chosen:
            names = [step.name for step in steps]
            raise MalmoiError(f"{self.manifest.name}: no step {operator!r}{did_you_mean(operator, names)}")
        step = chosen[0]
        added = {name for other in steps for name in other.adds.names} | {"id", "source", LANGUAGE}
        table = self._documents(added)
        others = np.zeros(table.num_rows, bool)
        for other in steps:
            limits = limits_of(other)
            if other is not step and limits is not None:
                others |= pc.is_valid(judge(table, limits).column(DROP)).to_numpy()
        wanted_columns = ["id", "source", LANGUAGE, *step.adds.names]
        return SignalView(step, table.select(_there(table.column_names, wanted_columns)), others)

    def _documents(self, columns: Iterable[str]) -> pa.Table:
        tables = []
        for part in range(self._plan()["parts"]):
            for kind in ("kept", "dropped"):
                name = part_file(part, kind)
                tables += _groups(self.folder, name, list(columns), some=True)
        if not tables:
            raise MalmoiError(f"{self.folder.url}: holds no document with signals")
        return pa.concat_tables(tables)

    def _plan(self) -> dict[str, Any]:
        return read_plan(self.folder)

    def _steps(self) -> tuple[Operator, ...]:
        return build_steps(parse_recipe({**self._plan()["recipe"], "output": self.folder.url}))

    def _shard(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        if name.endswith(".parquet"):
            table = pa.concat_tables(_groups(self.folder, name, columns))
            return table if columns is None else table.select(columns)
        with self.folder.open(name) as stream, pa.input_stream(stream, compression="zstd") as lines:
            data = lines.read()
        options = pa.json.ReadOptions(block_size=len(data) + 1)
        parse = pa.json.ParseOptions(explicit_schema=self._schema())
        table = pa.json.read_json(io.BytesIO(data), options, parse)
        if columns is None:
            return table
        _check(columns, table.column_names)
        return table.select(list(columns))

    def _schema(self) -> pa.Schema | None:
        """The types of the columns, which JSON does not tell (a date is a string there too)."""
        names = [output.path for output in self.manifest.others if output.path.startswith("dropped/")]
        if not names:
            return None
        with self.folder.open(names[0]) as stream:
            simple = [f for f in pq.read_schema(stream) if pa.types.is_large_string(f.type)]
        return pa.schema(simple)

    def __repr__(self) -> str:
        return f"Result({self.manifest.name}: {headline(self.manifest)}; {self.folder.url})"

    def _repr_html_(self) -> str:
        parts = [html.sheet(found) for found in sheets(self.manifest, self.report)]
        place = [f"corpus: {self.folder.url}/corpus", f"manifest: {self.manifest.manifest_hash[:16]}"]
        return html.page(f"{self.manifest.name}: {headline(self.manifest)}", *parts, html.notes(place))


def _groups(
    folder: Folder, name: str, columns: Sequence[str] | None, *, some: bool = False
) -> list[pa.Table]:
    """The row groups of a Parquet file, at least one table. MalmoiError where one of `columns` is not there;
    with `some`, those that are."""
    with folder.open(name) as stream:
        file = pq.ParquetFile(stream)
        schema = file.schema_arrow
        there = schema.names if columns is None else _there(schema.names, columns)
        if columns is not None and not some:
            _check(columns, schema.names)
        tables = [file.read_row_group(group, columns=there) for group in range(file.num_row_groups)]
    return tables or [schema.empty_table().select(there)]


def _check(columns: Sequence[str], there: Sequence[str]) -> None:
    if isinstance(columns, str):
        raise MalmoiError(f"columns: want a list of names, got the string {columns!r}")
    for name in columns:
        if name not in there:
            raise MalmoiError(f"no column {name!r}{did_you_mean(name, list(there))}")


def _there(names: Sequence[str], columns: Iterable[str]) -> list[str]:
    chosen = set(columns)
    return [name for name in names if name in chosen]


def _starting(table: pa.Table, reason: str) -> pa.Table:
    return table.filter(pc.starts_with(table.column(DROP), reason)) if reason else table
