"""Addresses instead of paths (https://, s3://, zip://...): fetched once into the cache, by fsspec."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from nnopt_ray import rundir
from nnopt_ray.data.cache import default_cache, kept
from nnopt_ray.errors import DataError, RunFolderError
from nnopt_ray.reading.addresses import is_address, masked

LARGE = 100 << 20  # bytes from which a fetch is announced
ASKED_S = 60  # for so long the answer to "is it still the same?" is believed
ARCHIVES = ("zip", "tar", "libarchive")
CACHING = ("simplecache", "filecache", "blockcache", "cached")  # of fsspec; what is fetched here is kept anyway

# What tells one state of a file from another, by the names that file systems have for it; a size alone does not.
MARKS = (
    "ETag", "etag", "e_tag", "Content-MD5", "content_md5", "md5Hash", "md5", "crc32c", "generation", "checksum",
    "Digest", "Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "modify", "sha",
    "blob_id",
)  # fmt: skip
PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub", "sftp": "paramiko", "ssh": "paramiko",
    "smb": "smbprotocol", "oss": "ossfs", "oci": "ocifs", "libarchive": "libarchive-c", "webhdfs": "requests",
    "github": "requests",
}  # fmt: skip
# What the libraries of file systems raise beside OSError, looked up only where they are loaded.
THEIRS = (
    ("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"), ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"), ("paramiko", "SSHException"), ("requests", "RequestException"),
)  # fmt: skip
UNANSWERED = (
    ("aiohttp", "ClientConnectionError"), ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "EndpointConnectionError"), ("requests", "ConnectionError"), ("socket", "gaierror"),
)  # fmt: skip
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
REFUSED, GONE = (401, 403, 407), (404, 410)


def fetched(address: str, base: Path, key: str) -> Path:
    """The file or folder on this machine that is what the address names; `$NAME` in it is an environment variable.

    key: the page's, for messages. An address that cannot be reached is answered by what was fetched from it before.
    Raises DataError when there is nothing, or no access, or no package for that kind of address.
    """
    return _fetched(_filled_in(address, key), base, key, int(time.time() // ASKED_S))


@lru_cache(maxsize=64)
def _fetched(address: str, base: Path, key: str, _minute: int) -> Path:
    outer, chained, rest = address.partition("::")
    kind, _, inside = outer.partition("://")
    if chained and kind in CACHING:
        return _located(rest, base, key)
    if chained and kind in ARCHIVES:
        return _unpacked(kind, inside, _located(rest, base, key), address, key)
    if kind in ("file", "local") and not chained:
        return base / Path(inside).expanduser()
    return _downloaded(address, kind, key)


def _located(path: str, base: Path, key: str) -> Path:
    return fetched(path, base, key) if is_address(path) else base / Path(path).expanduser()


def _filled_in(address: str, key: str) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise DataError(f"{key}: {masked(address)} names the environment variable {found[1]}, which is not set.")
        return os.environ[found[1]]

    return VARIABLE.sub(value, address)


def _downloaded(address: str, kind: str, key: str) -> Path:
    remembered = default_cache() / "fetched" / f"{_digest(address)}.json"
    try:
        system, path = _system(address, kind, key)
        found = dict(_found(system, path, address, key))
    except DataError as error:
        if not (isinstance(error, _Unreachable) and (copy := _copy(remembered))):
            raise
        logging.getLogger(__name__).warning("%s The copy that was fetched before is used.", error)
        return copy
    marks = {name: [str(info[mark]) for mark in MARKS if info.get(mark)] for name, info in found.items()}
    size = sum(int(info.get("size") or 0) for info in found.values())
    if size >= LARGE:
        logging.getLogger(__name__).warning("%s: fetching %s MB, once.", masked(address), f"{size / 1e6:,.0f}")
    # What has no mark of its state may have changed unseen, and is fetched again whenever it is asked for.
    unmarked = "" if all(marks.values()) else f"{time.time_ns()} {os.getpid()}"
    name = PurePosixPath(path.split("?")[0]).name or "data"

    def make(place: Path) -> None:
        for file, info in found.items():
            target = place / name / file if file else place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with _told(address, key):
                system.get_file(info["name"], str(target))
            wanted, got = info.get("size"), target.stat().st_size
            if isinstance(wanted, int) and wanted != got:
                raise DataError(f"{key}: {masked(address)} ended after {got:,} of {wanted:,} bytes. Try again.")

    folder = kept("fetched", _digest(json.dumps([address, marks, size, unmarked])), make)
    rundir.write_json(remembered, {"folder": folder.name, "name": name})
    return folder / name


def _copy(remembered: Path) -> Path | None:
    """What was fetched last."""
    try:
        said = rundir.read_json(remembered)
        place = remembered.parent / said["folder"] / said["name"]
    except (RunFolderError, KeyError, TypeError):
        return None
    return place if place.exists() else None


def _system(address: str, kind: str, key: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it."""
    import fsspec

    options: dict[str, Any] = {}
    if kind in ("http", "https"):
        import aiohttp

        # Proxies and ~/.netrc of the surroundings; no limit on the whole, as aiohttp's 5 minutes end large files.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
        options["client_kwargs"] = {"trust_env": True, "timeout": limits}
    try:
        with _told(address, key):
            return fsspec.url_to_fs(address, **options)  # type: ignore[no-any-return]
    except ImportError as error:
        package = PACKAGES.get(kind) or str(error).strip()
        raise DataError(
            f"{key}: addresses of the kind {kind}:// need a package that is not installed: pip install {package}"
        ) from error
    except ValueError as error:
        raise DataError(f"{key}: {masked(address)} cannot be fetched: {masked(str(error))}.") from error


def _found(system: Any, path: str, address: str, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path inside the folder, what is known of it) of every file; the path is empty where the address is a file."""
    with _told(address, key):
        info = system.info(path)
        inside = system.find(path, detail=True) if info.get("type") == "directory" else None
    if inside is None:
        yield "", info
        return
    root = str(info["name"]).rstrip("/")
    for name, each in sorted(inside.items()):
        relative = PurePosixPath(str(name).removeprefix(root).lstrip("/"))
        if ".." not in relative.parts and not relative.is_absolute():
            yield str(relative), each
    if not inside:
        raise DataError(f"{key}: {masked(address)} is a folder without files.")


def _unpacked(kind: str, inside: str, archive: Path, address: str, key: str) -> Path:
    """A file or folder of an archive on this machine; all of it where `inside` is empty."""
    import fsspec

    if not archive.is_file():
        raise DataError(f"{key}: there is no file {archive}. Relative paths start at the folder of the page.")
    name = PurePosixPath(inside).name or archive.name.partition(".")[0]

    def make(place: Path) -> None:
        try:
            system = fsspec.filesystem(kind, fo=str(archive))
            found = dict(_found(system, inside.strip("/"), address, key))
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
            why = "it is damaged, or no archive of that kind"
            raise DataError(f"{key}: {archive} cannot be read as {kind}: {why} ({error}).") from error
        for file, info in found.items():
            target = place / name / file if file else place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if info.get("type") != "directory":
                system.get_file(info["name"], str(target))

    with archive.open("rb") as content:
        held = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return kept("fetched", _digest(json.dumps([kind, inside, name, held])), make) / name


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class _Unreachable(DataError):
    """There was no answer at all."""


class _told:
    """What goes wrong at an address, as one sentence without its secrets."""

    def __init__(self, address: str, key: str) -> None:
        self.address, self.key = masked(address), key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> None:
        if error is None or isinstance(error, ImportError) or not isinstance(error, (OSError, *_loaded(THEIRS))):
            return
        chain = [error, *filter(None, (error.__cause__, error.__context__))]
        status = next((found for one in chain if isinstance(found := getattr(one, "status", None), int)), None)
        where = f"{self.key}: {self.address}"
        if status in REFUSED or isinstance(error, PermissionError):
            raise DataError(
                f"{where} may not be read{f' (status {status})' if status else ''}. Give access as the package of such "
                "addresses takes it: environment variables, a profile, or ~/.netrc."
            ) from error
        silent = next((one for one in chain if isinstance(one, _loaded(UNANSWERED))), None)
        if silent is not None or isinstance(error, TimeoutError | ConnectionError):
            raise _Unreachable(f"{where} cannot be reached{_why(silent or error)}.") from error
        if status in GONE or (status is None and isinstance(error, FileNotFoundError)):
            raise DataError(f"{where} is not there. Check the address.") from error
        said = f": the server answers with status {status}" if status else _why(error)
        raise DataError(f"{where} cannot be fetched{said}.") from error


def _why(error: BaseException) -> str:
    lines = masked(str(error)).strip().splitlines()
    return f": {(lines or [type(error).__name__])[0].rstrip('.')}"


def _loaded(named: tuple[tuple[str, str], ...]) -> tuple[type[BaseException], ...]:
    """Those of these exceptions whose libraries are loaded."""
    kinds = [getattr(sys.modules.get(module), name, None) for module, name in named]
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseException))


__all__ = ["MARKS", "PACKAGES", "fetched"]
