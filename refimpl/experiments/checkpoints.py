"""A long job in the middle: what it needs to go on after a kill, kept in one file beside the partial record.

A job that supports this asks :meth:`Checkpoint.load` once at its start, and once per step

.. code-block:: python

    checkpoint.keep(lambda: (step, x, state, counts, curve, rng))

which saves about every minute, and stops the job when the session's time is over. A payload is any object that can be
pickled: NamedTuples of NumPy or Torch arrays, random generators, lists, counts.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from refimpl.experiments.records import write_atomically

SCHEMA = 1
"""Number of the layout of these files; raise it when a payload of an older program would be misread."""

_MAGIC = "refimpl checkpoint"


class TimeUp(Exception):
    """The session's time is over. Everything is saved: the same call goes on from there."""


class Checkpoint:
    """The state of one unfinished job.

    The file begins with one line that says which settings it belongs to, then comes the payload: ``torch.save``'s
    format where Torch is loaded, so that tensors that share memory still do so afterwards, else a pickle. Loading
    either one can execute what the file says: load only files that this computer's own runs have written.

    Parameters
    ----------
    path
        The file; written whole or not at all.
    settings
        Everything that decides the job's results, as plain JSON values. A file of other settings is not loaded.
    every
        Seconds between two saves.
    until
        The instant of :func:`time.monotonic` at which the session's time is over; None for no limit.

    Raises
    ------
    ValueError
        ``every`` below zero.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, every: float = 60.0, until: float | None = None
    ) -> None:
        if not every >= 0:
            raise ValueError(f"every must be a number of seconds of at least 0, got {every!r}")
        self.path, self.every, self.until = Path(path), every, until
        plain = json.loads(json.dumps(settings))  # a key 3 is "3" in a file
        self.digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        self._last = time.monotonic()

    def load(self) -> Any | None:
        """The payload saved last; None where there is none, or it is of other settings, or (with a warning) damaged.

        Tensors come back on the device they were on.
        """
        try:
            header, _, body = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        try:
            found = json.loads(header)
            if found["magic"] != _MAGIC:
                raise ValueError("it is not a checkpoint")
            if (found["schema"], found["settings"]) != (SCHEMA, self.digest):
                return None
            if found["sha256"] != hashlib.sha256(body).hexdigest():
                raise ValueError("its content is not what was written")
            return _unpacked(body, found["format"])
        except Exception as error:  # unpickling what is damaged can raise anything
            warnings.warn(f"{self.path.name} cannot be read and is not used: {error}", stacklevel=2)
            return None

    def due(self) -> bool:
        """Whether it is time to save: ``every`` seconds after the last save, or the session's time is over."""
        return time.monotonic() - self._last >= self.every or self.time_is_up()

    def time_is_up(self) -> bool:
        """Whether the session's time is over."""
        return self.until is not None and time.monotonic() >= self.until

    def save(self, payload: Any) -> None:
        """Write ``payload`` in place of the file there was, atomically."""
        body, kind = _packed(payload)
        header = {"magic": _MAGIC, "schema": SCHEMA, "settings": self.digest, "format": kind}
        header["sha256"] = hashlib.sha256(body).hexdigest()
        write_atomically(self.path, json.dumps(header).encode() + b"\n" + body)
        self._last = time.monotonic()

    def check_time(self) -> None:
        """Stop the job if the session's time is over; call it after :meth:`save`.

        Raises
        ------
        TimeUp
            It is over.
        """
        if self.time_is_up():
            raise TimeUp("the session's time is over; everything is saved")

    def keep(self, payload: Callable[[], Any]) -> None:
        """Save ``payload()`` if it is :meth:`due`, then :meth:`check_time`: the one line of a job's loop.

        Raises
        ------
        TimeUp
            The session's time is over; the payload is saved.
        """
        if self.due():
            self.save(payload())
            self.check_time()

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)


def checkpoint_path(folder: Path, name: str, job: str) -> Path:
    """Where the job ``job`` of the experiment ``name`` keeps its state: different jobs, different files.

    >>> checkpoint_path(Path("results"), "cifar", "deep/adam/3").name
    '.cifar.deep%2Fadam%2F3.checkpoint'
    """
    safe = quote(job, safe=" =,@+")
    if len(safe) > 150:  # a file's name has 255 bytes at most
        safe = safe[:80] + "-" + hashlib.sha256(job.encode()).hexdigest()[:32]
    return folder / f".{name}.{safe}.checkpoint"


def _packed(payload: Any) -> tuple[bytes, str]:
    if "torch" not in sys.modules:  # then nothing in the payload can be Torch's
        return pickle.dumps(payload, protocol=pickle.HIGHEST_PROTOCOL), "pickle"
    import torch

    buffer = io.BytesIO()
    torch.save(payload, buffer)
    return buffer.getvalue(), "torch"


def _unpacked(body: bytes, kind: str) -> Any:
    if kind == "pickle":
        return pickle.loads(body)
    import torch

    return torch.load(io.BytesIO(body), weights_only=False)
