"""The one gate to arrays: which library, which device, which dtype, and where random numbers come from.

Every other module of the package is written against the `Python Array API <https://data-apis.org/array-api/>`_
and asks this module for what the standard does not have: random numbers, moving data to the host, the machine
epsilon of an array's dtype, and checks at the door. The same lines then run on NumPy, Torch, CuPy and
array-api-strict (the standard and nothing else, which the tests use as a stand-in for a GPU).

Random numbers are always drawn with NumPy's ``Generator`` in float64 and then moved and rounded: the same seed
gives the same draws on every backend.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of any backend. The standard has no common base class, so the alias documents intent only."""

_MODULES = {
    "numpy": ("numpy", "array_api_compat.numpy"),
    "torch": ("torch", "array_api_compat.torch"),
    "cupy": ("cupy", "array_api_compat.cupy"),
    "array-api-strict": ("array_api_strict", "array_api_strict"),
}
_DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Backend:
    """An array library together with the device and floating dtype that new arrays get.

    Build one with :func:`get_backend`. ``xp`` is the Array API namespace, ``device`` and ``dtype`` are in the
    library's own terms.
    """

    name: str
    xp: Any
    device: Any
    dtype: Any

    def __hash__(self) -> int:
        # By name: a device of CuPy has no hash of its own.
        return hash((self.name, str(self.device), str(self.dtype)))

    def asarray(self, values: Any) -> Array:
        """Floating array of this backend from anything NumPy understands (or an array of any backend)."""
        host = values if _is_host_ready(values) else to_numpy(values)
        return self.send(np.asarray(host, dtype=self.dtype_name), self.dtype)

    def send(self, host: np.ndarray, dtype: Any) -> Array:
        """A host array as an array of this backend with the library's ``dtype``; the host waits for no GPU."""
        if self.name == "torch" and self.device.type == "cuda":
            # From pageable memory the copy would wait for everything that is queued before it.
            pinned = self.xp.tensor(host, dtype=dtype, pin_memory=True)
            return pinned.to(self.device, non_blocking=True)
        return self.xp.asarray(host.tolist() if self._needs_lists else host, dtype=dtype, device=self.device)

    def zeros(self, shape: int | tuple[int, ...]) -> Array:
        """Array of zeros with this backend's dtype, on its device."""
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def eye(self, n: int) -> Array:
        """Identity matrix (n, n)."""
        return self.xp.eye(n, dtype=self.dtype, device=self.device)

    def normal(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> Array:
        """Standard normal draws; the same generator state gives the same numbers on every backend."""
        return self.asarray(rng.standard_normal(shape))

    def uniform(self, rng: np.random.Generator, low: float, high: float, shape: int | tuple[int, ...]) -> Array:
        """Uniform draws on [low, high)."""
        return self.asarray(rng.uniform(low, high, shape))

    @property
    def dtype_name(self) -> str:
        """``"float32"`` or ``"float64"``."""
        return dtype_name(self.dtype)

    @property
    def _needs_lists(self) -> bool:
        # array-api-strict refuses to convert a NumPy array onto a device other than its CPU.
        return self.name == "array-api-strict"


def get_backend(name: str = "numpy", dtype: str = "float64", device: Any = None) -> Backend:
    """The backend called ``name`` with a default ``dtype`` and ``device``.

    Parameters
    ----------
    name : ``"numpy"``, ``"torch"``, ``"cupy"`` or ``"array-api-strict"``.
    dtype : ``"float32"`` or ``"float64"``.
    device : None for the library's default, or a device name such as ``"cuda"`` (Torch), ``"device1"`` or
        ``"no_float64"`` (array-api-strict).

    Raises
    ------
    ValueError
        Unknown name, dtype or device; the library is not installed; the device cannot hold the dtype.

    >>> get_backend("numpy", "float32").dtype_name
    'float32'
    """
    if name not in list(_MODULES):  # a list, so that an unhashable name is refused like any other
        raise ValueError(f"unknown backend {name!r}; choose one of {sorted(_MODULES)}")
    if dtype not in _DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {list(_DTYPES)}")
    library, namespace_module = _MODULES[name]
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"backend {name!r} needs the package {library!r}, which is not installed")
    try:
        xp = importlib.import_module(namespace_module)
    except Exception as error:  # CuPy without its driver, say
        raise ValueError(f"backend {name!r} is installed but cannot be loaded: {error}") from error
    try:
        place = _resolve_device(name, xp, device)
        probe = xp.zeros(1, dtype=getattr(xp, dtype), device=place)
    except Exception as error:
        raise ValueError(f"backend {name!r} cannot hold {dtype} on device {device!r}: {error}") from error
    # The device as arrays report it ("cuda" comes back as "cuda:0"), so that devices can be compared.
    return Backend(name=name, xp=xp, device=array_api_compat.device(probe), dtype=probe.dtype)


def available_backends() -> list[str]:
    """Names of the array libraries that are installed here and can create an array."""
    found = []
    for name in _MODULES:
        try:
            get_backend(name)
        except ValueError:
            continue
        found.append(name)
    return found


def backend_of(x: Array) -> Backend:
    """The backend (library, device, dtype) that ``x`` lives on.

    >>> backend_of(np.zeros(2)).name
    'numpy'
    """
    xp = namespace(x)
    for name, (library, _) in _MODULES.items():
        if type(x).__module__.split(".")[0] == library:
            return Backend(name=name, xp=xp, device=array_api_compat.device(x), dtype=x.dtype)
    raise ValueError(f"arrays of type {type(x).__name__} belong to no known backend; use one of {sorted(_MODULES)}")


def namespace(*arrays: Array) -> Any:
    """The Array API namespace shared by ``arrays``; a ValueError if they do not share one."""
    kind = type(arrays[0]) if arrays else None
    if kind in _NAMESPACE_OF and all(type(other) is kind for other in arrays[1:]):
        return _NAMESPACE_OF[kind]
    try:
        found = array_api_compat.array_namespace(*arrays)
    except TypeError as error:
        kinds = ", ".join(type(a).__name__ for a in arrays)
        raise ValueError(f"expected arrays of one library, got {kinds}: {error}") from error
    if len(arrays) == 1:
        _NAMESPACE_OF[kind] = found
    return found


# The answer depends on the type alone, and asking array_api_compat costs as much as adding two short arrays.
_NAMESPACE_OF: dict[Any, Any] = {}


def device_of(x: Array) -> Any:
    """The device of ``x`` in its library's own terms."""
    return array_api_compat.device(x)


def dtype_name(dtype: Any) -> str:
    """The plain name of a dtype of any library.

    >>> dtype_name(np.dtype("float32"))
    'float32'
    """
    library: Any = type(dtype)
    return _dtype_name(library, dtype)


@lru_cache(maxsize=64)
def _dtype_name(library: Any, dtype: Any) -> str:
    # With its type before it in the key, a dtype is never compared with one of another library.
    return str(dtype).split(".")[-1]


def machine_epsilon(x: Array) -> float:
    """The spacing of 1.0 in the dtype of ``x``, as a Python float."""
    return float(namespace(x).finfo(x.dtype).eps)


def to_numpy(x: Any) -> np.ndarray:
    """A NumPy copy of ``x`` on the host, whatever library and device it lives on (this waits for a GPU)."""
    if array_api_compat.is_torch_array(x):
        return np.array(x.detach().cpu().numpy())
    if array_api_compat.is_cupy_array(x):
        return np.array(x.get())
    if type(x).__module__.split(".")[0] == "array_api_strict":
        return np.array(x.to_device(x.__array_namespace__().Device("CPU_DEVICE")))
    return np.array(x)


def host_numbers(name: str, values: Any) -> np.ndarray:
    """``values`` as a float64 NumPy array; a ValueError where they are text, complex or of uneven lengths."""
    try:
        host = to_numpy(values)
        if host.dtype.kind == "c":
            raise TypeError("complex numbers")
        return np.asarray(host, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be real numbers in rows of equal length, got {values!r}") from error


def dot(a: Array, b: Array) -> Array:
    """Inner product over the last axis: (..., n), (..., n) -> (...)."""
    # Not `vecdot`: on Torch it costs several times a product and a sum.
    return namespace(a, b).sum(a * b, axis=-1)


def widened(a: Array) -> Array:
    """``a`` in float64, or as it is where it is float64 already or its device has no float64.

    For the few sums that decide a step: a float32 sum of n products loses what their differences need.

    >>> widened(np.ones(3, dtype=np.float32)).dtype
    dtype('float64')
    """
    if dtype_name(a.dtype) == "float64":
        return a
    backend = backend_of(a)
    if not _has_float64(backend):
        return a
    return backend.xp.astype(a, backend.xp.float64)


def norm(a: Array) -> Array:
    """Euclidean norm over the last axis: (..., n) -> (...), safe against overflow and underflow."""
    xp = namespace(a)
    largest = xp.max(xp.abs(a), axis=-1, keepdims=True)
    usable = xp.isfinite(largest) & (largest > 0)
    safe = xp.where(usable, largest, xp.ones_like(largest))
    scaled = a / safe
    root = xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True)) * safe
    return xp.squeeze(root, axis=-1)


def all_finite(*arrays: Array) -> bool:
    """Whether every entry of every array is finite (reads back to the host)."""
    found: Any = True
    for a in arrays:  # one wait for a GPU, however many arrays
        found = namespace(a).all(namespace(a).isfinite(a)) & found
    return bool(found)


def check_array(
    name: str, x: Any, backend: Backend, n: int | None = None, batch: tuple[int, ...] | None = None
) -> None:
    """Refuse an array that is not of ``backend``, not of its dtype, or whose last axis is not ``n``.

    ``batch`` gives the leading axes that are required; None allows none at all.

    Raises
    ------
    ValueError
        With the name of the argument, what was given and what is expected.
    """
    shape = (*(batch or ()), n)
    # What almost every call passes, first: a step makes about ten of these checks.
    if _NAMESPACE_OF.get(type(x)) is backend.xp and x.dtype == backend.dtype and n is not None and x.shape == shape:
        return
    expected = f"({n if n is not None else 'n'},)" if not batch else f"{shape}"
    if not array_api_compat.is_array_api_obj(x):
        raise ValueError(f"{name} must be a {backend.name} array of shape {expected}, got {type(x).__name__}")
    if namespace(x) is not backend.xp:
        raise ValueError(f"{name} must be a {backend.name} array, got one of {namespace(x).__name__}")
    if x.dtype != backend.dtype:
        raise ValueError(f"{name} must have dtype {backend.dtype_name}, got {dtype_name(x.dtype)}; convert it first")
    if n is not None and tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(x.shape)}")


def check_positive(name: str, value: float, *, zero_allowed: bool = False) -> float:
    """``value`` as a float if it is finite and positive (or zero where allowed); else a ValueError."""
    bound = "at least zero" if zero_allowed else "positive"
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise ValueError(f"{name} must be a real number, got {value!r}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero_allowed):
        raise ValueError(f"{name} must be finite and {bound}, got {value!r}")
    return float(value)


def check_between(name: str, value: float, low: float, high: float, *, open_right: bool = True) -> float:
    """``value`` if low <= value < high (or <= high where not ``open_right``); else a ValueError."""
    bracket = ")" if open_right else "]"
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise ValueError(f"{name} must be a real number, got {value!r}")
    if not (low <= value < high or (value == high and not open_right)):
        raise ValueError(f"{name} must lie in [{low}, {high}{bracket}, got {value!r}")
    return float(value)


def check_count(name: str, value: int, minimum: int = 1) -> int:
    """``value`` as an int if it is a whole number of at least ``minimum``; else a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return int(value)


def check_symmetric(name: str, matrix: Array) -> None:
    """Refuse a matrix that is not square, not finite, or not symmetric to about the square root of the precision."""
    xp = namespace(matrix)
    shape = tuple(matrix.shape)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(f"{name} must be a square matrix (n, n) with n >= 1, got shape {shape}")
    if not all_finite(matrix):
        raise ValueError(f"{name} must be finite, but it holds NaN or infinity")
    size = float(xp.max(xp.abs(matrix)))
    gap = float(xp.max(xp.abs(matrix - xp.matrix_transpose(matrix))))
    if gap > math.sqrt(machine_epsilon(matrix)) * max(size, 1e-300):
        raise ValueError(f"{name} must be symmetric, but |A - A^T| reaches {gap:.3g}; use (A + A^T)/2 if that is meant")


def as_generator(seed: int | np.random.Generator | Sequence[int]) -> np.random.Generator:
    """A NumPy generator from a seed (or the generator itself).

    >>> bool(as_generator(7).standard_normal() == as_generator(7).standard_normal())
    True
    """
    if isinstance(seed, np.random.Generator):
        return seed
    parts = seed if isinstance(seed, list | tuple) else [seed]
    if not parts or any(isinstance(p, bool) or not isinstance(p, int | np.integer) or p < 0 for p in parts):
        raise ValueError(f"seed must be a non-negative integer (or several) or a numpy Generator, got {seed!r}")
    return np.random.default_rng(seed)


@lru_cache(maxsize=64)
def _has_float64(backend: Backend) -> bool:
    try:
        get_backend(backend.name, "float64", backend.device)
    except ValueError:
        return False
    return True


def _resolve_device(name: str, xp: Any, device: Any) -> Any:
    if name == "array-api-strict":
        return device if isinstance(device, xp.Device) else xp.Device(device or "CPU_DEVICE")
    if name == "numpy":
        if device not in (None, "cpu"):
            raise ValueError("NumPy lives on the device 'cpu'")
        return "cpu"
    if name == "torch":
        torch = importlib.import_module("torch")
        return torch.device(device or "cpu")
    return device


def _is_host_ready(values: Any) -> bool:
    return isinstance(values, int | float | list | tuple | np.ndarray | np.floating | np.integer)
