"""Predictions for new rows: the preprocessing and the best network of a run, applied chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray import assembly, rundir, tables
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.rundir import RunDir

if TYPE_CHECKING:
    import pyarrow as pa

    from nnopt_ray.data.table import Table

CHUNK = 16_384  # rows that are read, prepared and predicted at a time
READ = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow",
        ".feather": "arrow", ".ipc": "arrow"}  # fmt: skip
PACKED = (".gz", ".bz2", ".zst")
WRITTEN = (".parquet", ".csv", ".arrow", ".feather")
OF_CSV = ("delimiter", "quote", "decimal", "thousands", "encoding", "header", "missing", "text")


@dataclass(frozen=True)
class Predicted:
    """What was written: the file, its rows, its columns."""

    file: Path
    rows: int
    columns: tuple[str, ...]


class Predictor:
    """The best network of a finished run, with its preprocessing.

    Raises RunFolderError when the run has no best model, UserError for a run whose rows are no rows of a table.
    """

    def __init__(self, run: RunDir) -> None:
        self._folder = run.data_of_best
        self.experiment, self.dataset, self._model = assembly.best_model(run)
        if self.experiment.data.window is not None or self.dataset.shapes.is_language:
            what = "forecasts" if self.experiment.data.window is not None else "predicts the tokens of texts"
            raise UserError(
                f"{run.root} {what}, and `nnopt predict` is for tables whose rows are predicted one by one."
            )

    def outputs(self, table: Table) -> np.ndarray:
        """Of classes, probabilities float64 [rows, classes]; of numbers, float64 [rows, outputs] in the user's units.

        Raises DataError, naming missing, further and mistyped columns, when the table is not like the training data.
        """
        from nnopt_ray.data.prepare import apply
        from nnopt_ray.data.types import Rows
        from nnopt_ray.evaluate.evaluate import predict
        from nnopt_ray.evaluate.metrics import softmax

        inputs = apply(self._folder, table)
        rows = len(inputs[0])
        said = predict(
            self._model,
            Rows(inputs, np.zeros(rows), np.arange(rows)),
            self.dataset,
            assembly.machine_for(self.experiment),
        )
        return softmax(said) if self.dataset.classes else said

    def columns(self, table: Table) -> dict[str, np.ndarray]:
        """`predicted`, and of classes `p_<class>` each; of several numbers `predicted_0`, `predicted_1`, ..."""
        said = self.outputs(table)
        classes = self.dataset.classes
        if classes:
            names = np.array(classes, dtype=object)
            return {"predicted": names[said.argmax(axis=1)]} | {
                f"p_{name}": np.ascontiguousarray(share) for name, share in zip(classes, said.T, strict=True)
            }
        if said.shape[1] == 1:
            return {"predicted": said[:, 0]}
        return {f"predicted_{number}": np.ascontiguousarray(values) for number, values in enumerate(said.T)}

    def write(
        self, data: Path, out: Path, keep: tuple[str, ...] = (), force: bool = False, chunk: int = CHUNK
    ) -> Predicted:
        """Predict the rows of a file, `chunk` at a time, into another one: row (from 0), what is kept, predictions.

        keep: columns of the data to copy. Raises UserError for a place that is taken or of another kind, DataError
        for data that cannot be read or is not like the training data; then nothing is written.
        """
        if out.suffix not in WRITTEN:
            raise UserError(f"predictions are written as {', '.join(WRITTEN)}, and -o is {out}. Choose one of these.")
        if not out.parent.is_dir():
            raise UserError(f"-o: there is no folder {out.parent}. Make it, or choose another place.")
        if out.exists() and not force:
            raise UserError(f"{out} is there already. Choose another -o, or write over it with --force.")
        done: list[Predicted] = []
        rundir.write(out, lambda place: done.append(self._fill(data, place, out, keep, chunk)))
        return done[0]

    def _fill(self, data: Path, place: Path, out: Path, keep: tuple[str, ...], chunk: int) -> Predicted:
        import pyarrow as pa

        rows, writer, schema = 0, None, None
        try:
            for table in self._chunks(data, chunk):
                kept = {name: table.column(name, "--keep") for name in keep}
                made = pa.table({"row": np.arange(rows, rows + table.rows), **kept, **self.columns(table)})
                if writer is None:
                    schema = made.schema
                    writer = _writer(place, out.suffix, schema)
                writer.write_table(made.cast(schema))
                rows += table.rows
        finally:
            if writer is not None:
                writer.close()
        return Predicted(out, rows, tuple(schema.names) if schema is not None else ())

    def _chunks(self, data: Path, chunk: int) -> Iterator[Table]:
        """The rows of a file as tables of at most so many rows. Raises DataError."""
        from nnopt_ray.data.files import reading as reading_file
        from nnopt_ray.data.table import Table

        place = data.expanduser().absolute()
        name = place.name.lower()
        packed = next((end for end in PACKED if name.endswith(end)), "")
        kind = READ.get(Path(name.removesuffix(packed)).suffix)
        if kind is None or (packed and kind != "csv"):
            raise UserError(f"{data} ends in none of {', '.join(READ)}, so nobody knows how to read it.")
        if kind == "parquet" and place.is_file():
            from pyarrow import parquet

            with (
                reading_file("Parquet", place, "Write it anew, or give it the suffix that fits."),
                parquet.ParquetFile(place, memory_map=True) as file,
            ):
                if not file.metadata.num_rows:
                    raise DataError(f"{place} has no rows.")
                for batch in file.iter_batches(batch_size=chunk):
                    yield Table(str(place), _as_table(batch))
            return
        keys = {"path": str(place)}
        source = self.experiment.data.source
        if kind == "csv":
            keys |= {key: source[key] for key in OF_CSV} if source.type == "csv" else {"delimiter": "auto"}
        whole = tables.find("source", kind)(**keys).read(place.parent)
        for start in range(0, max(whole.rows, 1), chunk):
            yield Table(whole.origin, whole.columns.slice(start, chunk))


def _as_table(batch: Any) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches([batch])


def _writer(place: Path, suffix: str, schema: pa.Schema) -> Any:
    if suffix == ".csv":
        from pyarrow import csv

        return csv.CSVWriter(str(place), schema)
    if suffix == ".parquet":
        from pyarrow import parquet

        return parquet.ParquetWriter(place, schema)
    from pyarrow import ipc

    return ipc.new_file(str(place), schema)


__all__ = ["CHUNK", "Predicted", "Predictor"]
