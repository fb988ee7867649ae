"""`run.predict` in Python: new rows as a data frame, arrays, texts, images, or whatever lies in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray.data.pixels import decode_some
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.serving import forecast, incoming, pictures, sequences
from nnopt_ray.serving.noticed import Noticed
from nnopt_ray.serving.piece import Piece, cut
from nnopt_ray.serving.predictor import CHUNK, Predictor

if TYPE_CHECKING:
    import pandas as pd

    from nnopt_ray.serving.trained import Trained

TAKES = {
    "rows": "a data frame, an array [rows, columns], a path, or of texts a list of them",
    "images": "an array [rows, channels, height, width], a list of PIL images, or a path",
    "sequences": "an array [rows, length, channels], a data frame as in training, or a path",
    "windows": "a data frame of time points, or a path",
    "language": "a list of texts, a data frame, or a path",
}


def predicted(predictor: Predictor, data: Any) -> pd.DataFrame:
    """`predicted`, and of classes `p_<class>` each, a row for each of `data`; under the index of a data frame.

    Of sequences in long form and of forecasts the rows are theirs, with what tells them apart. What is noticed is
    warned of. Raises DataError and UserError as `Predictor.write` does.
    """
    import pandas as pd
    import pyarrow as pa

    trained = predictor.trained
    noticed = Noticed(trained)
    index: Any = None
    if _is_path(data, trained):
        paths = [str(one) for one in ([data] if isinstance(data, (str, Path)) else data)]
        found = pa.concat_tables(list(predictor.answers(paths, noticed)))
    elif trained.kind == "windows":
        found = forecast.foretold(trained, _framed(data, trained), noticed)
    else:
        table, beside = _table(data, trained)
        if isinstance(data, pd.DataFrame) and not beside:
            index = data.index
        faults = {} if trained.text is None else _empty(table, trained.text)
        done: list[pa.Table] = []
        for piece in cut(table, CHUNK, beside):
            start = sum(one.num_rows for one in done)
            here = {row - start: why for row, why in faults.items() if start <= row < start + piece.table.rows}
            done.append(predictor.answered(Piece(piece.table, piece.beside, here), noticed, (), start))
        found = pa.concat_tables(done)
    _warn(noticed)
    frame: pd.DataFrame = found.to_pandas()
    if "row" in frame and (frame.columns[1].startswith("predicted") or trained.kind == "language"):
        frame = frame.drop(columns="row")
    return frame if index is None else frame.set_index(index)


def _warn(noticed: Noticed) -> None:
    import warnings

    if said := noticed.warnings():
        warnings.warn(" ".join(said), UserWarning, stacklevel=4)


def _is_path(data: Any, trained: Trained) -> bool:
    if isinstance(data, Path):
        return True
    if isinstance(data, str):
        return trained.text is None or Path(data).exists() or "://" in data
    many = isinstance(data, Sequence) and len(data) > 0
    return many and (all(isinstance(one, Path) for one in data) or (trained.kind == "images" and _texts(data)))


def _texts(data: Any) -> bool:
    return all(isinstance(one, str) for one in data)


def _framed(data: Any, trained: Trained) -> Table:
    import pandas as pd
    import pyarrow as pa

    if isinstance(data, pd.DataFrame):
        data = pa.Table.from_pandas(data, preserve_index=False)
    if isinstance(data, pa.Table):
        return Table("the data frame", data)
    raise UserError(f"run.predict takes {TAKES[trained.kind]}; it was given {type(data).__name__}.")


def _table(data: Any, trained: Trained) -> tuple[Table, dict[str, Any]]:
    """As a source gives rows, and what tells them apart."""
    import pandas as pd
    import pyarrow as pa

    if trained.text is not None and (isinstance(data, str) or (isinstance(data, (list, tuple)) and _texts(data))):
        texts = [data] if isinstance(data, str) else list(data)
        if not texts:
            raise DataError("the list of texts is empty.")
        return Table("the list of texts", pa.table({trained.text: pa.array(texts, pa.string())})), {}
    if trained.kind == "images" and isinstance(data, (list, tuple)) and data and _are_images(data):
        return _of_pillow(list(data), trained), {}
    if isinstance(data, np.ndarray) or (hasattr(data, "__array__") and not hasattr(data, "columns")):
        values = np.asarray(data)
        if values.dtype.kind in "biuf":
            if trained.kind == "images":
                return pictures.table(values, trained, "the array"), {}
            if trained.kind == "sequences":
                return sequences.array(values, trained, "the array"), {}
            return incoming.array(values, trained, "the array"), {}
    if isinstance(data, (pd.DataFrame, pa.Table)) and trained.kind == "sequences":
        return sequences.gathered(tidy(_framed(data, trained)), trained)
    if trained.kind == "images":
        raise UserError(f"run.predict takes {TAKES['images']}; it was given {type(data).__name__}.")
    return _framed(data, trained), {}


def _are_images(data: Sequence[Any]) -> bool:
    from PIL import Image

    return all(isinstance(one, Image.Image) for one in data)


def _of_pillow(data: list[Any], trained: Trained) -> Table:
    """PIL images, brought to one shape as files are."""
    import io

    import pyarrow as pa

    pictures.refuse_other_units(trained, "PIL images")
    channels, height, width = trained.preprocessing.image_shape or (0, 0, 0)
    how = pictures.shaping(trained)

    def opened(number: int) -> io.BytesIO:
        stream = io.BytesIO()
        data[number].save(stream, "PNG" if data[number].mode != "CMYK" else "TIFF")
        stream.seek(0)
        return stream

    images, faults = decode_some(len(data), opened, (channels, height, width), how)
    named = {f"image {number:,}": why for number, why in faults.items()}
    pictures.refuse_other_sizes(named, (channels, height, width), trained)
    if named:
        name, why = next(iter(named.items()))
        raise DataError(f"{name} cannot be read: {why}.")
    return Table("the list of images", pa.table({}), images=images)


def _empty(table: Table, name: str) -> dict[int, str]:
    texts = table.columns.column(name).to_pylist()
    return {row: "it is empty" for row, text in enumerate(texts) if text is None or not str(text).strip()}


__all__ = ["predicted"]
