"""The source `image_folder`: image files, a folder for each class or a table of labels beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nnopt_ray.data.csv_file import Csv
from nnopt_ray.data.files import digest, files, located
from nnopt_ray.data.pixels import SUFFIXES, Shaping, Size, with_images
from nnopt_ray.data.sources import Source
from nnopt_ray.data.split import GIVEN_NAMES
from nnopt_ray.data.table import Table, is_text, quoted, tidy
from nnopt_ray.data.text_files import folders_divide, parts_of
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside

if TYPE_CHECKING:
    import pyarrow as pa

UNREAD = (".heic", ".heif", ".avif", ".jp2", ".svg", ".psd", ".dcm", ".nef", ".cr2")


class ImageFolder(Source):
    """Images in files: PNG, JPEG, BMP, GIF (its first frame), WebP and TIFF.

    A folder for each class, `cat/1.png`, `dog/2.jpg`, or a table that names file and label of each image. Where folders
    train and test (or val) lie above the classes, `train/cat/1.png`, they are the parts (`split: given`, the default
    then). The target is `label`; `data.target` may call it as it likes.

    The images are decoded once, into the cache, with the orientation that the camera noted. Pixels are 0 to 255; the
    step `scale` brings them to 0 to 1.

    Keys:
        path: the folder, relative to the page.
        labels: a csv file with a row an image, relative to the page or to the folder; further columns are columns.
        file_column: of the labels, the column with the file, relative to the folder; its suffix may be missing.
        label_column: of the labels, the column with the label.
        size: height and width that all images are brought to, or a square's side; without it they must have one size.
        resize: stretch; crop what stands out, in the middle; or pad with black. The latter keep the proportions.
        channels: 1 (shades) or 3 (colours); auto is 3 where an image is coloured.
        corrupt: images that cannot be read are refused, or left_out with a note and a line each in audit.csv.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, Beside()],
        labels: Annotated[str, Beside()] | None = None,
        file_column: str = "file",
        label_column: str = "label",
        size: Size | None = None,
        resize: Literal["stretch", "crop", "pad"] = "stretch",
        channels: Literal["auto", 1, 3] = "auto",
        corrupt: Literal["refuse", "leave_out"] = "refuse",
    ) -> None:
        self.path = path
        self.labels = labels
        self.file_column = file_column
        self.label_column = label_column
        self.shaping = Shaping.of(size, resize, channels, corrupt)
        self._digest = ""
        self._found: tuple[list[Path], tuple[str, ...]] | None = None

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        return folders_divide(keys.get("path"), base)

    def fingerprint(self, base: Path) -> str:
        root = self._root(base)
        labels = self._labels_file(base)
        self._digest = digest(self._listed(root)[0], root)  # not read once more where `read` follows
        return " ".join([self._digest, *([digest([labels], base)] if labels else [])])

    def read(self, base: Path) -> Table:
        import pyarrow as pa

        root = self._root(base)
        found, foreign = self._listed(root)
        content = self._digest or digest(found, root)
        labels = self._labels_file(base)
        notes: list[str] = []
        if labels is None:
            places, columns = found, pa.table({"label": pa.array(_classes(found, root), pa.string())})
            target = "label"
        else:
            places, columns = self._labelled(labels, found, root, notes)
            target = self.label_column
        folders = [place.relative_to(root).parts[:-1] for place in places]
        names = [place.relative_to(root).as_posix() for place in places]
        table = Table(str(root), columns, target=target, own_parts=parts_of(folders), notes=(*notes, *foreign))
        return with_images(
            table, len(places), lambda number: places[number].open("rb"), names.__getitem__, self.shaping,
            f"{content} {names}",
        )  # fmt: skip

    def _listed(self, root: Path) -> tuple[list[Path], tuple[str, ...]]:
        """The images, in sorted order, and what to say of other files; looked up once."""
        if self._found is None:
            there = _there(root)
            self._found = _images(there, root), _foreign(there)
        return self._found

    def _root(self, base: Path) -> Path:
        root = located(self.path, base, "data.source.path")
        if not root.is_dir():
            what = "is a file" if root.exists() else "is not there"
            raise DataError(f"data.source.path: {root} {what}; image_folder needs the folder that holds the images.")
        return root

    def _labels_file(self, base: Path) -> Path | None:
        if self.labels is None:
            return None
        inside = located(self.path, base, "data.source.path") / self.labels
        if "://" not in self.labels and not (base / self.labels).exists() and inside.is_file():
            return inside
        return files(self.labels, base, (), "data.source.labels")[0]

    def _labelled(self, labels: Path, found: list[Path], root: Path, notes: list[str]) -> tuple[list[Path], pa.Table]:
        """The image of each row of the labels, and its columns."""
        table = tidy(Csv(path=str(labels)).read(labels.parent))
        if not is_text(table.column(self.file_column, "data.source.file_column").type):  # 0012 is no number here
            table = tidy(Csv(path=str(labels), text=(self.file_column,)).read(labels.parent))
        named = table.column(self.file_column, "data.source.file_column").to_pylist()
        table.column(self.label_column, "data.source.label_column")
        known = {place.relative_to(root).as_posix(): place for place in found}
        stems = Counter(name.rpartition(".")[0] for name in known)
        known |= {
            name.rpartition(".")[0]: place for name, place in known.items() if stems[name.rpartition(".")[0]] == 1
        }
        wanted = ["" if name is None else str(PurePosixPath(name)) for name in named]
        missing = list(dict.fromkeys(name for name in wanted if name not in known))
        if missing:
            raise DataError(
                f"data.source.labels: {labels} names {len(missing):,} images that are not in {root}: "
                f"{quoted(missing)}. '{self.file_column}' must hold their paths in that folder."
            )
        places = [known[name] for name in wanted]
        idle = len(set(found) - set(places))
        if idle:
            said = "1 image" if idle == 1 else f"{idle:,} images"
            notes.append(f"No row of {labels.name} names {said} of {root}, left out therefore.")
        return places, table.columns.drop_columns([self.file_column])


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _there(root: Path) -> list[Path]:
    """Every file that is data by its name, in sorted order."""
    return [
        file
        for file in sorted(root.rglob("*"))
        if file.is_file() and all(_is_data(name) for name in file.relative_to(root).parts)
    ]


def _images(there: list[Path], root: Path) -> list[Path]:
    found = [file for file in there if file.suffix.lower() in SUFFIXES]
    if not found:
        others = Counter(file.suffix for file in there if file.suffix).most_common(3)
        told = ", ".join(f"{count:,} in {suffix}" for suffix, count in others)
        raise DataError(
            f"data.source.path: the folder {root} holds no image ({', '.join(SUFFIXES)})"
            + (f"; of other files there are, {told}." if told else ", and no other file.")
        )
    return found


def _foreign(there: list[Path]) -> tuple[str, ...]:
    """A sentence where pictures of a kind that is not read lie among the others."""
    kinds = Counter(file.suffix.lower() for file in there)
    strange = {suffix: kinds[suffix] for suffix in UNREAD if kinds[suffix]}
    if not strange:
        return ()
    told = ", ".join(f"{count:,} in {suffix}" for suffix, count in strange.items())
    return (f"Images of other formats were left out: {told}. Convert them to PNG or JPEG.",)


def _classes(found: list[Path], root: Path) -> list[str]:
    """The class of each image: the first folder, or the one below train, validation and test."""
    folders = [place.relative_to(root).parts[:-1] for place in found]
    divided = all(folder and folder[0].lower() in GIVEN_NAMES for folder in folders)
    bare = [place for place, folder in zip(found, folders, strict=True) if len(folder) <= divided]
    if bare:
        names = quoted([place.relative_to(root).as_posix() for place in bare], 3)
        raise DataError(
            f"data.source.path: {len(bare):,} of {len(found):,} images of {root} lie in no folder of a class: {names}. "
            "Make a folder for each class, or add to data.source: labels: FILE.csv"
        )
    return [folder[divided] for folder in folders]


__all__ = ["ImageFolder"]
