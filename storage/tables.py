"""Tables of a run: Parquet files, written whole or not at all, and SQL over them."""

import io
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ..errors import RunError, SpecError, StorageError
from .files import TEMPORARY, make_directory, publish
from .paths import RunPaths


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` to `path`; readers see the old file or the new one."""
    make_directory(path.parent)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        pq.write_table(table, temporary, compression="zstd")
        publish(temporary, path)
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error}. Free some space and run the same command again.") from error


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}. A table is made again by its job once the file is removed; "
            "`actlake verify RUN --repair` restores examples.parquet."
        ) from None


def table_names(paths: RunPaths) -> list[str]:
    return sorted(p.stem for p in paths.tables.glob("*.parquet"))


def query(paths: RunPaths, sql: str) -> pa.Table:
    """Run `sql` (DuckDB) with `examples` and every job's table as views.

    Raises SpecError with DuckDB's own message when the query is wrong.
    """
    if not paths.examples.exists():
        raise RunError(f"{paths.root} is not a run: it has no examples.parquet. Give the folder that `actlake run` printed.")
    views = {"examples": paths.examples} | {name: paths.table(name) for name in table_names(paths)}
    with duckdb.connect() as connection:
        for name, path in views.items():
            location = str(path).replace("'", "''")
            try:
                connection.execute(f"""CREATE VIEW "{name}" AS SELECT * FROM read_parquet('{location}')""")
            except duckdb.Error as error:
                raise StorageError(f"{path} cannot be read: {error}") from None
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise SpecError(f"The query failed: {error}\nTables of this run: {', '.join(views)}.") from error
        except AttributeError as error:  # DuckDB answers None to a statement that is no query
            raise SpecError("The query gave no rows: it should be a SELECT.") from error


def _flat(table: pa.Table) -> pa.Table:
    """Nested columns as JSON, since CSV knows none."""
    for i, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            values = [None if v is None else json.dumps(v, ensure_ascii=False) for v in table[i].to_pylist()]
            table = table.set_column(i, field.name, pa.array(values, pa.string()))
    return table


def render(table: pa.Table, form: str) -> bytes:
    """`table` as json (a list of objects), csv or parquet."""
    sink = io.BytesIO()
    if form == "json":
        text = json.dumps(table.to_pylist(), ensure_ascii=False, default=str)
        sink.write(text.encode() + b"\n")
    elif form == "csv":
        pa_csv.write_csv(_flat(table), sink)
    elif form == "parquet":
        pq.write_table(table, sink)
    else:
        raise SpecError(f"--format {form}: expected table, json, csv or parquet.")
    return sink.getvalue()
