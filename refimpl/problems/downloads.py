"""Downloads that continue where they broke off: a downloader for pooch, which checks what comes out."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from refimpl.arrays import check_count, check_positive

_CHUNK = 2**18


class Interrupted(OSError):
    """A server sent less than it had promised."""


class ResumingDownloader:
    """Fetches a file by HTTP in as many pieces as it takes, and shows how far it is.

    What has arrived is kept in ``partial`` and is continued from there by an HTTP range request: after a connection
    that broke, and by the next call after a process that ended. A server that does not know range requests, or that has
    another file by now (its ``ETag`` or date is kept beside ``partial``), is asked for the whole file. ``partial``
    belongs to one process at a time; a second one, at the same time, downloads on its own. So does each one on
    Windows, which has no such locks: nothing is continued there.

    Whether the file is the right one is for the caller to check: :func:`retrieve` does.

    Parameters
    ----------
    partial : where to keep what has arrived. Taken away when the file is complete.
    attempts : requests in a row that came no further than those before, after which it gives up.
    pause : seconds before the second attempt, doubled for each one after it.
    timeout : seconds to wait for a server that is silent.

    Source: RFC 9110, section 14, for range requests.
    """

    def __init__(self, partial: Path, *, attempts: int = 4, pause: float = 1.0, timeout: float = 30.0) -> None:
        self.partial = Path(partial)
        self._attempts = check_count("attempts", attempts)
        self._pause = check_positive("pause", pause, zero_allowed=True)
        self._timeout = check_positive("timeout", timeout)
        self.continued = False

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> bool | None:
        """Download ``url`` into ``output_file``; with ``check_only`` say whether the server has it.

        Raises
        ------
        requests.RequestException, Interrupted
            The server cannot be reached, which is tried once, or refuses, or broke off too often. What has arrived is
            kept.
        """
        import requests

        if check_only:
            return bool(requests.head(url, timeout=self._timeout, allow_redirects=True).ok)
        with _owned(self.partial) as (partial, file):
            idle, furthest, reached = 0, file.seek(0, os.SEEK_END), False
            while True:
                try:
                    self._continue(url, partial, file)
                    break
                except (requests.RequestException, Interrupted) as error:
                    if isinstance(error, requests.HTTPError) and error.response is not None:
                        refused = error.response.status_code < 500
                    else:
                        refused = isinstance(error, requests.ConnectionError) and not reached
                    reached = True
                    here = file.seek(0, os.SEEK_END)
                    idle, furthest = (0, here) if here > furthest else (idle + 1, furthest)
                    if refused or idle == self._attempts:
                        raise
                    time.sleep(self._pause * 2 ** max(idle - 1, 0))
            file.seek(0)
            with open(output_file, "wb") as whole:
                shutil.copyfileobj(file, whole)
            _forget(partial)
        return None

    def _continue(self, url: str, partial: Path, file: IO[bytes]) -> None:
        """One request: append what is missing, or begin anew."""
        import requests

        start, version = file.seek(0, os.SEEK_END), _note_of(partial)
        # Bytes are counted as they lie on the server, so it must not compress them on the way.
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version.is_file():
                headers["If-Range"] = version.read_text(encoding="utf-8")
        with requests.get(url, headers=headers, stream=True, timeout=self._timeout) as response:
            if response.status_code == 416:  # nothing is left, or the file has become shorter
                if response.headers.get("Content-Range", "") == f"bytes */{start}":
                    return
                file.truncate(0)
                raise Interrupted(f"{url} is shorter than what had arrived of it; begin anew")
            response.raise_for_status()
            if response.status_code != 206:
                start = file.truncate(0)
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                file.truncate(0)
                raise Interrupted(f"{url} sent another part than it was asked for; begin anew")
            self.continued = self.continued or start > 0
            mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if mark and not mark.startswith("W/"):  # a weak one does not promise the same bytes
                version.write_text(mark, encoding="utf-8")
            else:
                version.unlink(missing_ok=True)
            self._append(response, file, start)

    def _append(self, response: Any, file: IO[bytes], start: int) -> None:
        from tqdm import tqdm
        from urllib3.exceptions import HTTPError

        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        name = self.partial.name.removesuffix(".part").removeprefix(".")
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None, leave=False) as bar:
            try:
                for piece in response.raw.stream(_CHUNK, decode_content=False):
                    bar.update(file.write(piece))
            except HTTPError as error:
                raise Interrupted(f"the connection broke after {file.tell()} bytes: {error}") from error
        if total is not None and file.tell() != total:  # urllib3 before version 2 does not say so
            raise Interrupted(f"{file.tell()} of {total} bytes arrived")


def retrieve(url: str, sha256: str, path: Path, **options: Any) -> Path:
    """The file of ``url`` at ``path``: from there if it is there and whole, else by download, which may be continued.

    ``options`` are those of :class:`ResumingDownloader`. Pieces of a file that was changed in between are noticed by
    the checksum; then it is downloaded once more, in one piece.

    Raises
    ------
    ValueError
        The SHA-256 of what the server has is not ``sha256``. Nothing is left at ``path``.
    requests.RequestException, Interrupted
        See :class:`ResumingDownloader`.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it announces every download with the full path of the file
    downloader = ResumingDownloader(path.with_name(f".{path.name}.part"), **options)
    ask = {"known_hash": f"sha256:{sha256}", "fname": path.name, "path": path.parent, "downloader": downloader}
    try:
        return Path(pooch.retrieve(url, **ask))
    except ValueError:
        if not downloader.continued:
            raise
        return Path(pooch.retrieve(url, **ask))


@contextmanager
def _owned(partial: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """``partial`` opened for appending, for this process alone; where another has it, a file of our own."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    file = partial.open("a+b")
    try:
        if not _locked(file):
            file.close()
            partial = partial.with_name(f"{partial.name}.{os.getpid()}")
            file = partial.open("w+b")
        yield partial, file
    finally:
        file.close()
        if partial.suffix == f".{os.getpid()}":
            _forget(partial)


def _locked(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _note_of(partial: Path) -> Path:
    """Where it is kept which version of the file a partial one is of."""
    return partial.with_name(f"{partial.name}.version")


def _forget(partial: Path) -> None:
    for path in (partial, _note_of(partial)):
        path.unlink(missing_ok=True)
