"""The datasets of the book, split and scaled, as NumPy arrays on the host.

Every loader is deterministic: the same ``split_seed`` gives the same rows. Files are looked for in the folder that
the environment variable ``REFIMPL_DATA`` names, then in pooch's cache, then on the network; their SHA-256 is checked
wherever they come from. What can be downloaded is listed in ``registry.json`` beside this file.

Sets of pictures are in :mod:`refimpl.problems.images`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.arrays import as_generator, check_count, check_positive
from refimpl.problems import downloads

ENVIRONMENT_VARIABLE = "REFIMPL_DATA"
_REGISTRY = Path(__file__).with_name("registry.json")


class DatasetUnavailable(RuntimeError):
    """A dataset is neither on this machine nor to be had from the network; the message says what to do."""


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test rows, and what a reader must know about them.

    Inputs are float64 (float32 for photographs), (rows, features). Targets are float64 (rows,) for regression and
    two-class problems with logits, int64 labels (rows,) for classification with several classes.

    Attributes
    ----------
    target_scale, target_offset : what regression targets were divided by after subtracting the offset; a
        prediction in original units is ``prediction * target_scale + target_offset``. 1 and 0 for labels.
    classes : number of classes, 0 for regression.
    image_shape : (channels, height, width) of a row, or None.
    """

    name: str
    train_inputs: np.ndarray
    train_targets: np.ndarray
    val_inputs: np.ndarray
    val_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    source: str
    licence: str
    note: str = ""
    target_scale: float = 1.0
    target_offset: float = 0.0
    classes: int = 0
    image_shape: tuple[int, int, int] | None = None


def uci_energy(split_seed: int = 0) -> Dataset:
    """UCI Energy Efficiency, 8 features and the heating load: 588 training, 104 validation and 76 test rows.

    The rows are permuted with ``split_seed``; the permutation of the paper was not published in it, so this one is
    ours. The first 692 rows are training and validation, of which the first 588 train. Inputs and target are
    standardized with mean and unbiased standard deviation over those 692 rows, as the paper's experiments do
    (so the scale of the validation rows leaks into training).

    Raises
    ------
    DatasetUnavailable
        The file is not in ``REFIMPL_DATA`` and cannot be downloaded.
    ValueError
        The file found is not the published one, or a malformed ``split_seed``.

    Source: series of Hessian-vector products paper, UCI Energy experiment; data of Tsanas & Xifara (2012).
    """
    entry = registry()["uci_energy"]
    table = np.loadtxt(fetch(entry["files"][0]))
    return _regression(
        "uci_energy", table[:, :-1], table[:, -1], sizes=(588, 104, 76), split_seed=split_seed,
        source=entry["source"], licence=entry["licence"],
        note="own seeded permutation; standardized over training and validation rows",
    )  # fmt: skip


def uci_energy_or_fallback(split_seed: int = 0) -> tuple[Dataset, str]:
    """UCI Energy, or where its file cannot be had, scikit-learn's diabetes data; and a sentence saying which.

    The sentence is empty for the real data. Anything shown from the fallback must carry it.
    """
    other = "diabetes data of scikit-learn (442 rows, 10 features)"
    return or_fallback("UCI Energy", lambda: uci_energy(split_seed), lambda: diabetes(split_seed), other)


def diabetes(split_seed: int = 0) -> Dataset:
    """Diabetes progression, 10 features: 338 training, 60 validation and 44 test rows, standardized.

    Split and scaled by the rule of :func:`uci_energy`.

    Raises
    ------
    DatasetUnavailable
        scikit-learn is not installed.
    """
    loaded = _optional("sklearn.datasets", "scikit-learn").load_diabetes()
    return _regression(
        "diabetes", loaded.data, loaded.target, sizes=(338, 60, 44), split_seed=split_seed,
        source="Efron et al. (2004), shipped with scikit-learn",
        licence="not stated; distributed with scikit-learn (BSD-3-Clause)",
        note="own seeded permutation; standardized over training and validation rows",
    )  # fmt: skip


def digits(split_seed: int = 0) -> Dataset:
    """Handwritten digits, 8 x 8 pixels in [0, 1]: 1197 training, 300 validation and 300 test rows, 10 classes.

    Raises
    ------
    DatasetUnavailable
        scikit-learn is not installed.
    """
    loaded = _optional("sklearn.datasets", "scikit-learn").load_digits()
    return split_rows(
        "digits", np.asarray(loaded.data, float) / 16.0, np.asarray(loaded.target, np.int64),
        sizes=(1197, 300, 300), order=permutation(len(loaded.target), split_seed),
        source="Alpaydin & Kaynak (1998), UCI; the 1797 test images, shipped with scikit-learn", licence="CC BY 4.0",
        note="own seeded permutation; pixels divided by 16", classes=10, image_shape=(1, 8, 8),
    )  # fmt: skip


def mnist1d(split_seed: int = 0, *, validation_rows: int = 0) -> Dataset:
    """MNIST-1D, signals of 40 numbers: 4000 training and 1000 test rows, 10 classes, as published.

    Generated by the package ``mnist1d`` with its default arguments (its own seed 42); there is no download.
    ``validation_rows`` of the 4000 are set aside, chosen with ``split_seed``; with 0 the validation arrays are
    empty. The global random states that the package seeds are put back.

    Raises
    ------
    DatasetUnavailable
        The package ``mnist1d`` is not installed.
    ValueError
        ``validation_rows`` is negative or leaves nothing to train on.

    Source: Greydanus & Kobak (2020).
    """
    check_count("validation_rows", validation_rows, minimum=0)
    package = _optional("mnist1d.data", "mnist1d")
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        made = package.make_dataset(package.get_dataset_args())
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002
    inputs = np.concatenate([made["x"], made["x_test"]]).astype(float)
    labels = np.concatenate([made["y"], made["y_test"]]).astype(np.int64)
    training = len(made["y"])
    if validation_rows >= training:
        raise ValueError(f"validation_rows must be less than {training}, got {validation_rows}")
    order = np.concatenate([permutation(training, split_seed), np.arange(training, len(labels))])
    return split_rows(
        "mnist1d", inputs, labels,
        sizes=(training - validation_rows, validation_rows, len(labels) - training), order=order,
        source="Greydanus & Kobak (2020), generated by the package mnist1d", licence="Apache-2.0",
        note="default arguments of the package", classes=10,
    )  # fmt: skip


def xor() -> Dataset:
    """Exclusive or: the four corners of the unit square. Validation and test rows are the same four.

    >>> xor().train_targets.tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    inputs = np.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = np.asarray([0.0, 1.0, 1.0, 0.0])
    return Dataset(
        "xor", inputs, targets, inputs.copy(), targets.copy(), inputs.copy(), targets.copy(),
        source="by definition", licence="none needed", note="the same four rows three times", classes=2,
    )  # fmt: skip


def two_moons(split_seed: int = 0, *, rows: int = 200, noise: float = 0.2) -> Dataset:
    """Two half circles that reach into each other, one per class: ``rows`` training and as many test rows.

    Class 0 lies on the upper half of the unit circle around 0, class 1 on the lower half of that around (1, 1/2);
    angles are uniform, and normal noise of deviation ``noise`` is added to both coordinates: with 0.2 the classes just
    overlap. They alternate row by row. ``split_seed`` decides the points, training first.

    Raises
    ------
    ValueError
        No rows, or noise that is negative or not finite.

    Notes
    -----
    Drawn, not downloaded.

    >>> moons = two_moons(rows=4, noise=0.0)
    >>> moons.train_targets.tolist()
    [0.0, 1.0, 0.0, 1.0]
    >>> [round(float(np.linalg.norm(p)), 6) for p in moons.train_inputs[::2]]
    [1.0, 1.0]
    """
    check_count("rows", rows)
    check_positive("noise", noise, zero_allowed=True)
    rng = as_generator(split_seed)
    labels = np.arange(2 * rows) % rows % 2.0
    angles = rng.uniform(0.0, np.pi, 2 * rows)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    inputs = np.where(labels[:, None] == 1.0, np.asarray([1.0, 0.5]) - circle, circle)
    inputs = inputs + noise * rng.standard_normal(inputs.shape)
    return split_rows(
        "two_moons", inputs, labels, sizes=(rows, 0, rows), order=np.arange(2 * rows),
        source="by definition", licence="none needed", note=f"normal noise of deviation {noise:g}", classes=2,
    )  # fmt: skip


def registry() -> dict[str, Any]:
    """The files that can be downloaded: name of the dataset -> title, source, licence, note, files."""
    found: dict[str, Any] = json.loads(_REGISTRY.read_text(encoding="utf-8"))
    return found


def or_fallback(
    title: str, wanted: Callable[[], Dataset], other: Callable[[], Dataset], description: str
) -> tuple[Dataset, str]:
    """The wanted data, or where they cannot be had the other ones, and then a sentence that says so."""
    try:
        return wanted(), ""
    except DatasetUnavailable as error:
        data = other()
        note = f"{title} is not available here, so these are the {description}: numbers differ from those of the paper."
        return replace(data, note=f"{data.note}; stands in for {title}"), f"{note} Reason: {error}"


def local_file(entry: dict[str, str]) -> Path | None:
    """The file in ``REFIMPL_DATA``, checked; None where it is not there."""
    folder = os.environ.get(ENVIRONMENT_VARIABLE)
    local = Path(folder) / entry["path"] if folder else None
    if local is None or not local.is_file():
        return None
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    if digest != entry["sha256"]:
        raise ValueError(
            f"{local} is not the published file: its SHA-256 is {digest}, expected {entry['sha256']}; "
            f"replace it by {entry['url']}"
        )
    return local


def fetch(entry: dict[str, str]) -> Path:
    """The file of a registry entry: from ``REFIMPL_DATA``, the cache or the network; else DatasetUnavailable."""
    local = local_file(entry)
    if local is not None:
        return local
    try:
        return _download(entry)
    except Exception as error:  # pooch passes on whatever requests, urllib3 or the disk raise
        if isinstance(error, ValueError) and "hash" in str(error):
            raise ValueError(f"{entry['url']} no longer gives the published file: {error}") from error
        folder = os.environ.get(ENVIRONMENT_VARIABLE)
        missing = f"{Path(folder) / entry['path']} does not exist" if folder else f"{ENVIRONMENT_VARIABLE} is not set"
        raise DatasetUnavailable(
            f"{entry['path']} is not here ({missing}) and could not be downloaded ({type(error).__name__}); "
            f"download {entry['url']} and put it at $" + ENVIRONMENT_VARIABLE + f"/{entry['path']}"
        ) from error


def _download(entry: dict[str, str]) -> Path:
    return downloads.retrieve(entry["url"], entry["sha256"], cache_folder() / entry["path"])


def cache_folder() -> Path:
    """Where downloads and decoded pictures are kept."""
    import pooch

    return Path(pooch.os_cache("refimpl"))


def _optional(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DatasetUnavailable(
            f"this dataset needs the package {package} ({error}); install it with: pip install {package}"
        ) from error


def permutation(rows: int, split_seed: int) -> np.ndarray:
    """The order of the rows that a split seed stands for."""
    return as_generator(split_seed).permutation(rows)


def _regression(
    name: str, inputs: np.ndarray, targets: np.ndarray, *, sizes: tuple[int, int, int], split_seed: int, **about: str
) -> Dataset:
    order = permutation(len(targets), split_seed)
    seen = order[: sizes[0] + sizes[1]]
    scale, offset = float(targets[seen].std(ddof=1)), float(targets[seen].mean())
    inputs = (inputs - inputs[seen].mean(axis=0)) / inputs[seen].std(axis=0, ddof=1)
    return split_rows(
        name, inputs, (targets - offset) / scale, sizes=sizes, order=order, target_scale=scale, target_offset=offset,
        **about,
    )  # fmt: skip


def split_rows(
    name: str, inputs: np.ndarray, targets: np.ndarray, *, sizes: tuple[int, int, int], order: np.ndarray, **about: Any
) -> Dataset:
    """Training, validation and test rows of ``sizes``, in this order of the rows."""
    parts = np.split(order, np.cumsum(sizes))
    train, val, test = parts[0], parts[1], parts[2]
    if len(parts[3]) or len(order) != len(targets):
        raise ValueError(f"{name} was expected to have {sum(sizes)} rows, got {len(targets)}")
    data = [part for rows in (train, val, test) for part in (inputs[rows], targets[rows])]
    return Dataset(name, *data, **about)
