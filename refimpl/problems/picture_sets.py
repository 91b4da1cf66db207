"""Sets of pictures as bytes, split into training and test: for :class:`refimpl.problems.image_problem.ImageProblem`.

``images`` offers these names too, and the same sets as numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import check_count
from refimpl.problems.datasets import (
    DatasetUnavailable,
    cache_folder,
    digits,
    fetch,
    local_file,
    permutation,
    registry,
)
from refimpl.problems.image_files import (
    CLASSES,
    Pictures,
    cached,
    read_cifar_binary,
    read_idx,
    read_photo_archive,
    read_svhn,
)

CLOTHES = (
    "T-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
"""The classes of Fashion-MNIST; a label is a position in this tuple."""

_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class About:
    """What a reader must know about a set of pictures; a label is a position in ``names``."""

    name: str
    names: tuple[str, ...]
    source: str
    licence: str
    note: str

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.names)


class PictureSet(NamedTuple):
    """Training and test pictures, and what they are."""

    train: Pictures
    test: Pictures
    about: About


def mnist_pictures(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> PictureSet:
    """MNIST, grey digits of 28 x 28 pixels: 60,000 to train, 10,000 to test.

    Both parts are permuted with ``split_seed``; ``train_rows`` and ``test_rows`` take only the first so many of them.

    Raises
    ------
    DatasetUnavailable
        The published files are not in ``REFIMPL_DATA`` and cannot be downloaded.
    ValueError
        The files found are not the registered ones, a malformed ``split_seed``, or more rows than there are.
    """
    return _idx_set("mnist", _DIGITS, split_seed, train_rows, test_rows)


def fashion_mnist_pictures(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> PictureSet:
    """Fashion-MNIST, grey pictures of clothes of 28 x 28 pixels: 60,000 to train, 10,000 to test, 10 classes.

    Rows and what is raised: as for :func:`mnist_pictures`.
    """
    return _idx_set("fashion_mnist", CLOTHES, split_seed, train_rows, test_rows)


def svhn_pictures(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> PictureSet:
    """SVHN, house numbers cut into digits of 32 x 32 pixels in three colors: 73,257 to train, 26,032 to test.

    Rows and what is raised: as for :func:`mnist_pictures`. The 531,131 easier "extra" digits are not used. Labels are
    the digits themselves.
    """
    files = [fetch(file) for file in registry()["svhn"]["files"]]
    both = decoded("svhn", files, lambda: tuple(read_svhn(file) for file in files))
    return _chosen("svhn", both, _DIGITS, split_seed, train_rows, test_rows)


def cifar10_pictures(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> PictureSet:
    """CIFAR-10, photographs of 32 x 32 pixels in three colors: 50,000 to train, 10,000 to test, 10 classes.

    The same rows in the same order as :func:`cifar10`, which says what ``about.note`` may have to tell. Rows and what
    is raised: as for :func:`mnist_pictures`.
    """
    name, files = published_or_packed("cifar10", "cifar10_jpeg")
    read = read_photo_archive if name == "cifar10_jpeg" else read_cifar_binary
    both = decoded(name, files, lambda: read(*files))
    return _chosen(name, both, CLASSES, split_seed, train_rows, test_rows)


def digit_pictures(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> PictureSet:
    """scikit-learn's digits of 8 x 8 pixels, as bytes: the 1197 training and 300 test rows of :func:`digits`."""
    data = digits(split_seed)
    parts = []
    for role, wanted, inputs, labels in (
        ("train", train_rows, data.train_inputs, data.train_targets),
        ("test", test_rows, data.test_inputs, data.test_targets),
    ):
        rows = _checked_rows(role, wanted, len(labels))
        parts.append(Pictures(np.rint(255 * inputs[:rows]).astype(np.uint8).reshape(-1, 1, 8, 8), labels[:rows]))
    about = About("digits", _DIGITS, data.source, data.licence, "own seeded permutation; bytes 0 to 255")
    return PictureSet(parts[0], parts[1], about)


def mnist_pictures_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[PictureSet, str]:
    """MNIST or, where it cannot be had, scikit-learn's digits; and a sentence saying so, else empty.

    Digits come with at most as many rows as were asked for.
    """
    return _or_digits("MNIST", mnist_pictures, split_seed, train_rows, test_rows)


def fashion_mnist_pictures_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[PictureSet, str]:
    """Fashion-MNIST or digits, as :func:`mnist_pictures_or_fallback`."""
    return _or_digits("Fashion-MNIST", fashion_mnist_pictures, split_seed, train_rows, test_rows)


def svhn_pictures_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[PictureSet, str]:
    """SVHN or digits, as :func:`mnist_pictures_or_fallback`."""
    return _or_digits("SVHN", svhn_pictures, split_seed, train_rows, test_rows)


def cifar10_pictures_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[PictureSet, str]:
    """CIFAR-10 or digits, as :func:`mnist_pictures_or_fallback`."""
    return _or_digits("CIFAR-10", cifar10_pictures, split_seed, train_rows, test_rows)


def published_or_packed(published: str, packed: str) -> tuple[str, list[Path]]:
    """The published files, unless ``REFIMPL_DATA`` has only the archive of single pictures; and which of the two."""
    known = registry()
    found = [local_file(file) for file in known[published]["files"]]
    if None in found:
        archive = local_file(known[packed]["files"][0])
        if archive is not None:
            return packed, [archive]
    return published, [there or fetch(file) for there, file in zip(found, known[published]["files"], strict=True)]


def decoded(name: str, files: list[Path], decode: Callable[[], tuple[Pictures, ...]]) -> tuple[Pictures, ...]:
    """What ``decode()`` makes of ``files``, kept in the cache; DatasetUnavailable where Pillow is missing."""
    digest = registry()[name]["files"][0]["sha256"]
    try:
        return cached(cache_folder() / "decoded" / f"{name}-{digest[:16]}.npz", decode)
    except ImportError as error:
        raise DatasetUnavailable(f"{files[0].name} holds pictures; to read them: pip install pillow") from error


def provenance(name: str, note: str) -> dict[str, Any]:
    """Source, licence and note of a registered set, for a :class:`Dataset` or :class:`About`."""
    entry = registry()[name]
    return {"source": entry["source"], "licence": entry["licence"], "note": f"{note}; {entry['note']}"}


def _or_digits(
    title: str, load: Callable[..., PictureSet], split_seed: int, train_rows: int | None, test_rows: int | None
) -> tuple[PictureSet, str]:
    try:
        return load(split_seed, train_rows, test_rows), ""
    except DatasetUnavailable as error:
        both = ((train_rows, 1197), (test_rows, 300))
        fewer = [None if wanted is None else min(wanted, most) for wanted, most in both]
        found = digit_pictures(split_seed, *fewer)
        about = replace(found.about, note=f"{found.about.note}; stands in for {title}")
        note = f"{title} is not available here, so these are digits of 8 x 8 pixels: numbers differ from the paper's."
        return found._replace(about=about), f"{note} Reason: {error}"


def _idx_set(
    name: str, names: tuple[str, ...], split_seed: int, train_rows: int | None, test_rows: int | None
) -> PictureSet:
    """A set published as four IDX files: images and labels to train, images and labels to test."""
    files = [fetch(file) for file in registry()[name]["files"]]
    both = decoded(name, files, lambda: (read_idx(*files[:2]), read_idx(*files[2:])))
    return _chosen(name, both, names, split_seed, train_rows, test_rows)


def _chosen(
    name: str,
    both: tuple[Pictures, ...],
    names: tuple[str, ...],
    split_seed: int,
    train_rows: int | None,
    test_rows: int | None,
) -> PictureSet:
    parts = []
    for role, wanted, found in zip(("train", "test"), (train_rows, test_rows), both, strict=True):
        rows = permutation(len(found.labels), split_seed)[: _checked_rows(role, wanted, len(found.labels))]
        parts.append(Pictures(found.pixels[rows], found.labels[rows]))
    about = About(name.removesuffix("_jpeg"), names, **provenance(name, "own seeded order"))
    return PictureSet(parts[0], parts[1], about)


def _checked_rows(role: str, wanted: int | None, there: int) -> int:
    if wanted is not None and check_count(f"{role}_rows", wanted) > there:
        raise ValueError(f"{role}_rows must be at most {there}, got {wanted}")
    return there if wanted is None else wanted
