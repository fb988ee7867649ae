"""Predictions for new rows: the preprocessing and the best network of a run, applied some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray.data.table import Table, tidy
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate.decision import decided
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving import incoming, output
from nnopt_ray.serving.noticed import Noticed
from nnopt_ray.serving.piece import Piece
from nnopt_ray.serving.trained import Trained

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 16_384  # rows that are read, prepared and predicted at a time


@dataclass(frozen=True)
class Predicted:
    """What was written: where (- is standard output), its rows, its columns, what was noticed, rows without any."""

    file: str
    rows: int
    columns: tuple[str, ...]
    notes: tuple[str, ...]


class Predictor:
    """The best network of a finished run, with its preprocessing.

    Raises RunFolderError when the run has no best model, UserError for a run that predicts masked tokens.
    """

    def __init__(self, run: RunDir) -> None:
        self.trained = Trained.of(run)
        if self.trained.dataset.shapes.task == "masked_language_modelling":
            raise UserError(
                f"{run.root} predicts tokens that are masked, and new texts have none. In Python, `run.model()` gives "
                "the network, which later pages start from by `train: {from: ...}`."
            )

    def write(
        self,
        data: Path | str | Sequence[Path | str],
        out: Path | str,
        keep: tuple[str, ...] = (),
        force: bool = False,
        chunk: int = CHUNK,
    ) -> Predicted:
        """Predict rows, `chunk` at a time, into a file: row (from 0), what tells rows apart, what is kept, predictions.

        data: files, folders, patterns or addresses. keep: columns of the data to copy. Raises UserError for a place
        that is taken or of another kind, DataError for data that cannot be read or is not like the training data;
        then nothing is written.
        """
        output.check(str(out), force)
        many = [data] if isinstance(data, (str, Path)) else list(data)
        noticed = Noticed(self.trained, keep)
        rows, columns = 0, ()

        def counted() -> Iterator[pa.Table]:
            nonlocal rows, columns
            for table in self.answers([str(one) for one in many], noticed, keep, chunk):
                rows, columns = rows + table.num_rows, tuple(table.column_names)
                yield table

        output.write(str(out), counted())
        return Predicted(str(out), rows, columns, noticed.sentences())

    def answers(
        self, data: Sequence[str], noticed: Noticed, keep: tuple[str, ...] = (), chunk: int = CHUNK
    ) -> Iterator[pa.Table]:
        """What is to be written, some rows at a time. Raises DataError and UserError."""
        if self.trained.kind == "windows":
            from nnopt_ray.serving import forecast

            yield forecast.foretold(self.trained, forecast.read(data, self.trained, noticed), noticed)
            return
        start = 0
        for piece in incoming.pieces(data, self.trained, noticed, keep, chunk):
            yield self.answered(piece, noticed, keep, start)
            start += piece.table.rows

    def answered(self, piece: Piece, noticed: Noticed, keep: tuple[str, ...] = (), start: int = 0) -> pa.Table:
        """The rows of a piece with their predictions, numbered from `start`; None where there is nothing to predict."""
        import pyarrow as pa

        kept = {name: piece.table.column(name, "--keep") for name in keep}
        said = self.columns(piece.table, noticed, piece.faults)
        beside = {name: column for name, column in piece.beside.items() if name not in kept}
        taken = sorted({"row", *beside, *said} & set(kept))
        if taken:
            raise UserError(f"--keep: '{taken[0]}' is the name of a column that predictions bring. Rename it in DATA.")
        return pa.table({"row": np.arange(start, start + piece.table.rows), **beside, **kept, **said})

    def columns(
        self, table: Table, noticed: Noticed | None = None, faults: Mapping[int, str] | None = None
    ) -> dict[str, Any]:
        """`predicted`, and of classes `p_<class>` each; of several numbers `predicted_0`, `predicted_1`, ...; of a
        language model what `perplexity.columns` gives: Arrow arrays of all rows, null where there is no prediction.

        Raises DataError, naming missing and mistyped columns, when the table is not like the training data.
        """
        import pyarrow as pa

        if self.trained.kind == "language":
            from nnopt_ray.serving import perplexity

            return perplexity.columns(self.trained, table, noticed or Noticed(self.trained), faults or {})
        said, empty = self.outputs(table, noticed or Noticed(self.trained), faults or {})
        mask = empty if empty.any() else None
        classes = self.trained.dataset.classes
        if classes:
            said, codes = decided(said, self.trained.decision)
            chosen = pa.DictionaryArray.from_arrays(
                pa.array(codes.astype(np.int32), mask=mask), pa.array(classes, pa.string())
            )
            return {"predicted": chosen.cast(pa.string())} | {
                f"p_{name}": pa.array(np.ascontiguousarray(share), mask=mask)
                for name, share in zip(classes, said.T, strict=True)
            }
        several = said.shape[1] > 1
        return {
            f"predicted_{number}" if several else "predicted": pa.array(np.ascontiguousarray(values), mask=mask)
            for number, values in enumerate(said.T)
        }

    def outputs(self, table: Table, noticed: Noticed, faults: Mapping[int, str]) -> tuple[np.ndarray, np.ndarray]:
        """Of classes, logits float32 [rows, classes]; of numbers, float64 [rows, outputs] in the user's units.

        Beside them the rows that have none, bool [rows]; what stands there means nothing.
        """
        from nnopt_ray.data.types import Rows
        from nnopt_ray.evaluate.outputs import predict

        trained = self.trained
        inputs, empty, _ = self.inputs(table, noticed, faults)
        rows = len(empty)
        said = predict(trained.model, Rows(inputs, np.zeros(rows), np.arange(rows)), trained.dataset, trained.machine)
        return said, empty

    def inputs(
        self, table: Table, noticed: Noticed, faults: Mapping[int, str]
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray, Table]:
        """What the network reads of the rows; bool [rows], those that have no prediction; the rows as they are read."""
        trained = self.trained
        chosen = noticed.chosen(tidy(table), faults)
        frame, gaps = noticed.filled(trained.preprocessing.frame(chosen, noticed.before))
        inputs = trained.preprocessing.arrays(frame, chosen)
        rows = len(inputs[0])
        empty = np.zeros(rows, dtype=bool)
        empty[: len(gaps)] = gaps
        empty[list(faults)] = True
        noticed.seen(rows, faults, int(empty.sum()))
        return inputs, empty, chosen


__all__ = ["CHUNK", "Predicted", "Predictor"]
