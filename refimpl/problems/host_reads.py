"""What makes a program wait for its accelerator: every number that the host reads back. This file needs Torch.

On a GPU the host only queues work, until it asks for a value; then it waits for all that is queued. A step that asks
for nothing can be queued ahead, and captured as a CUDA graph. :func:`host_reads` finds what asks, on any device: on the
CPU nothing waits, but the calls are the same.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_PACKAGE = Path(__file__).resolve().parents[1]
_TORCH = Path(torch.__file__).parent

# Operations whose result is on the host, or whose result has a shape that only the values tell.
_READS = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "unique_dim", "_unique2", "unique_consecutive",
}  # fmt: skip
# LAPACK's counterparts on a GPU report success in a number that Torch looks at before it returns.
_CHECKED = {"_linalg_eigh", "linalg_eig", "_linalg_eigvals", "_linalg_svd", "_linalg_check_errors"}
_CHECKED_ON_REQUEST = {"linalg_cholesky_ex", "linalg_inv_ex", "linalg_ldl_factor_ex", "linalg_lu_factor_ex"}
# On the CPU these leave no trace among the operations.
_READING_METHODS = {"tolist", "numpy", "__array__"}


class Wait(NamedTuple):
    """One call that waits: its name, and the line of the package that made it (``curvature/series.py:147``)."""

    operation: str
    place: str

    def __str__(self) -> str:
        return f"{self.operation} ({self.place})"


class HostReads(NamedTuple):
    """What :func:`host_reads` found.

    reads : calls for which the host waits: numbers read back, and matrix factorizations that check themselves.

    uploads : arrays that the host made and sent. They need not wait (from pinned memory they do not), but a captured
    program would send the old ones again.

    synchronizations : how often CUDA waited, as Torch itself counts; None without a GPU.

    result : what the function returned.
    """

    reads: tuple[Wait, ...]
    uploads: tuple[Wait, ...]
    synchronizations: int | None
    result: Any


def host_reads(function: Callable[[], Any]) -> HostReads:
    """Run ``function`` once and list the calls that wait for an accelerator.

    Notes
    -----
    A value that is on the host already counts again where it is read as a Torch scalar: the list may be too long, on
    the CPU, but nothing is left out that the package uses. Caches (masks, weights of a series) are filled in a first
    call: call the function once before.

    >>> import torch
    >>> found = host_reads(lambda: float(torch.ones(2).sum()))
    >>> [wait.operation for wait in found.reads], found.result
    (['_local_scalar_dense'], 2.0)
    """
    reads: list[Wait] = []
    uploads: list[Wait] = []
    methods = _Methods(reads)
    with _synchronizations() as waited, methods, _Operations(reads, uploads, methods):
        result = function()
    return HostReads(tuple(reads), tuple(uploads), len(waited) if torch.cuda.is_available() else None, result)


class _Operations(TorchDispatchMode):
    """Watches the operations themselves, also those that Torch's own functions make."""

    def __init__(self, reads: list[Wait], uploads: list[Wait], methods: _Methods) -> None:
        super().__init__()
        self._reads = reads
        self._uploads = uploads
        self._methods = methods

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split("::")[-1].split(".")[0]
        if name in _READS | _CHECKED or (name in _CHECKED_ON_REQUEST and kwargs.get("check_errors")):
            self._reads.append(_wait(name))
        elif name in ("index", "index_put", "index_put_") and _by_mask(args) and not self._methods.filling:
            self._reads.append(_wait(f"{name} with a mask"))
        elif name == "_to_copy" and _leaves_device(args[0], kwargs.get("device")):
            self._reads.append(_wait("copy to the host"))
        elif name == "lift_fresh" and not self._methods.storing:
            self._uploads.append(_wait("array from the host"))
        return func(*args, **kwargs)


class _Methods(TorchFunctionMode):
    """Watches the methods that hand a CPU tensor's memory over without an operation."""

    def __init__(self, reads: list[Wait]) -> None:
        super().__init__()
        self._reads = reads
        self._on_host: list[Any] = []
        self.storing = self.filling = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "cpu" or (name == "to" and _names_cpu(args, kwargs)):
            if args[0].device.type == "cpu":
                self._reads.append(_wait("copy to the host"))
            found = func(*args, **kwargs)
            # The copy that there would be: reading it is no second wait.
            found = found.view_as(found) if found is args[0] else found
            self._on_host.append(found)
            return found
        if name in _READING_METHODS and not any(args[0] is known for known in self._on_host):
            self._reads.append(_wait(name))
        # A number stored into a tensor goes along with the call, whatever Torch makes of it on the CPU; under a mask it
        # becomes `masked_fill_`.
        outer = self.storing, self.filling
        self.storing = self.storing or name == "__setitem__"
        self.filling = self.filling or (name == "__setitem__" and isinstance(args[2], int | float))
        try:
            return func(*args, **kwargs)
        finally:
            self.storing, self.filling = outer


def _by_mask(args: Any) -> bool:
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _leaves_device(tensor: Any, device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu" and tensor.device.type != "cpu"


def _names_cpu(args: Any, kwargs: Any) -> bool:
    # A device object may be that of a backend, to which an array is sent, and which is a CPU only here.
    return any(isinstance(a, str) and a == "cpu" for a in (*args[1:], *kwargs.values()))


def _wait(operation: str) -> Wait:
    passed_through = (str(_TORCH), str(Path(__file__).resolve()))
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(passed_through)]
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_relative_to(_PACKAGE):
            return Wait(operation, f"{path.relative_to(_PACKAGE)}:{frame.lineno}")
    return Wait(operation, f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?")


@contextmanager
def _synchronizations() -> Iterator[list[Any]]:
    if not torch.cuda.is_available():
        yield []
        return
    before = torch.cuda.get_sync_debug_mode()
    seen: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode(before)
            seen += [w for w in caught if "synchronizing" in str(w.message)]
