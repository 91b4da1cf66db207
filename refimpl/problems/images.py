"""Digits and photographs: :func:`mnist_10k` and :func:`cifar10`, which ``datasets`` offers too, and their archives.

Each set exists in two forms: the files as published, which can be downloaded, and an archive of single pictures, which
is only looked for in the folder ``REFIMPL_DATA``. Decoded pixels are kept in the cache folder, because decoding takes
longer than training a small network.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import check_count
from refimpl.problems.datasets import (
    Dataset,
    DatasetUnavailable,
    cache_folder,
    digits,
    fetch,
    local_file,
    mnist1d,
    or_fallback,
    permutation,
    registry,
    split_rows,
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of CIFAR-10; a label is a position in this tuple."""

_DIGIT = re.compile(r"(\d+)-num(\d)\.png")
_PHOTO = re.compile(r"(train|test)/([a-z]+)/(\d+)\.jpg")


class Pictures(NamedTuple):
    """Pixels 0 … 255, (pictures, channels, height, width) uint8, and labels, (pictures,) int64."""

    pixels: np.ndarray
    labels: np.ndarray


def mnist_10k(split_seed: int = 0) -> Dataset:
    """The 10,000 test images of MNIST, 28 x 28 pixels in [0, 1]: 8000 rows to train, 2000 to test, 10 classes.

    The 60,000 training images are not used: the 10,000 are permuted with ``split_seed`` and split. Where
    ``REFIMPL_DATA`` has an archive of PNG files instead of the published files, the grey values differ slightly;
    ``note`` says which were read.

    Raises
    ------
    DatasetUnavailable
        Neither is in ``REFIMPL_DATA`` and the published files cannot be downloaded, or Pillow is not installed.
    ValueError
        The files found are not the registered ones, or a malformed ``split_seed``.
    """
    name, files = _published_or_packed("mnist_10k", "mnist_10k_png")
    read = read_digit_archive if name == "mnist_10k_png" else read_idx
    (found,) = _decoded(name, files, lambda: (read(*files),))
    rows = len(found.labels)
    return split_rows(
        "mnist_10k", found.pixels.reshape(rows, -1) / 255.0, found.labels,
        sizes=(rows * 4 // 5, 0, rows - rows * 4 // 5), order=permutation(rows, split_seed),
        classes=10, image_shape=found.pixels.shape[1:], **_about(name, "own seeded split; pixels divided by 255"),
    )  # fmt: skip


def cifar10(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> Dataset:
    """CIFAR-10, photographs of 32 x 32 pixels in three colors in [0, 1]: 50,000 to train, 10,000 to test, 10 classes.

    Training and test photographs are the published ones, each permuted with ``split_seed``; ``train_rows`` and
    ``test_rows`` take only the first so many of them. Inputs are float32: in float64 they would fill 1.5 GB. Where
    ``REFIMPL_DATA`` has an archive of JPEG files instead of the published file, the pixels are **lossy** copies and
    accuracies differ slightly; ``note`` says which were read.

    Raises
    ------
    DatasetUnavailable
        Neither is in ``REFIMPL_DATA`` and the published file cannot be downloaded, or Pillow is not installed.
    ValueError
        The file found is not the registered one, a malformed ``split_seed``, or more rows than there are.
    """
    name, files = _published_or_packed("cifar10", "cifar10_jpeg")
    read = read_photo_archive if name == "cifar10_jpeg" else read_cifar_binary
    parts: list[np.ndarray] = []
    both = _decoded(name, files, lambda: read(*files))
    for role, wanted, found in zip(("train", "test"), (train_rows, test_rows), both, strict=True):
        rows = len(found.labels)
        if wanted is not None and check_count(f"{role}_rows", wanted) > rows:
            raise ValueError(f"{role}_rows must be at most {rows}, got {wanted}")
        chosen = permutation(rows, split_seed)[:wanted]
        parts += [found.pixels[chosen].reshape(len(chosen), -1) / np.float32(255), found.labels[chosen]]
    note = "own seeded order; pixels divided by 255"
    return Dataset(
        "cifar10", parts[0], parts[1], parts[0][:0], parts[1][:0], parts[2], parts[3],
        classes=10, image_shape=found.pixels.shape[1:], **_about(name, note),
    )  # fmt: skip


def mnist_10k_or_fallback(split_seed: int = 0) -> tuple[Dataset, str]:
    """The 10,000 MNIST images or, where they cannot be had, MNIST-1D; and a sentence saying so, else empty."""
    return or_fallback("MNIST", lambda: mnist_10k(split_seed), lambda: mnist1d(split_seed), "MNIST-1D (4000 signals)")


def cifar10_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[Dataset, str]:
    """CIFAR-10 or, where it cannot be had, all of scikit-learn's digits; and a sentence saying so, else empty."""
    wanted = lambda: cifar10(split_seed, train_rows, test_rows)  # noqa: E731
    return or_fallback("CIFAR-10", wanted, lambda: digits(split_seed), "digits of 8 x 8 pixels (1197 images)")


def read_digit_archive(path: Path) -> Pictures:
    """A tar archive of grey PNG files ``NNNNNN-numD.png``, D the label, in the order of N.

    Raises
    ------
    ImportError
        Pillow is not installed.
    ValueError
        A file of another name, pictures of different sizes, or none at all.
    """
    found = []
    for name, content in _members(path):
        match = _matched(_DIGIT, name, path)
        found.append((int(match[1]), int(match[2]), _pixels(content, "L")[None]))
    found.sort(key=lambda entry: entry[0])
    return _stacked([pixels for _, _, pixels in found], [label for _, label, _ in found], path)


def read_photo_archive(path: Path) -> tuple[Pictures, Pictures]:
    """A tar archive of JPEG files ``train/CLASS/NNNN.jpg`` and ``test/CLASS/NNNN.jpg``: training and test pictures.

    Ordered by class and number. JPEG is lossy, and decoders may differ by one grey level. Raises as
    :func:`read_digit_archive`.
    """
    found: dict[str, list[tuple[int, int, np.ndarray]]] = {"train": [], "test": []}
    for name, content in _members(path):
        match = _matched(_PHOTO, name, path)
        if match[2] not in CLASSES:
            raise ValueError(f"{path.name} holds {name!r}, but {match[2]!r} is none of the classes {list(CLASSES)}")
        entry = CLASSES.index(match[2]), int(match[3]), np.moveaxis(_pixels(content, "RGB"), -1, 0)
        found[match[1]].append(entry)
    for entries in found.values():
        entries.sort(key=lambda entry: entry[:2])
    train, test = (
        _stacked([pixels for _, _, pixels in entries], [label for label, _, _ in entries], path)
        for entries in found.values()
    )
    return train, test


def read_idx(images: Path, labels: Path) -> Pictures:
    """A pair of gzipped IDX files, the format in which MNIST is published.

    Raises
    ------
    ValueError
        Not IDX files of bytes, or not as many labels as images.
    """
    pixels, names = _idx_array(images, 3), _idx_array(labels, 1)
    if len(pixels) != len(names):
        raise ValueError(f"{images.name} holds {len(pixels)} images, but {labels.name} {len(names)} labels")
    return Pictures(pixels[:, None], names.astype(np.int64))


def read_cifar_binary(path: Path) -> tuple[Pictures, Pictures]:
    """The gzipped tar archive of CIFAR-10 in its binary version: training and test pictures.

    A record is one byte of label and 3072 of pixels, red before green before blue.

    Raises
    ------
    ValueError
        Batches of another size, or none at all.
    """
    batches = {Path(name).stem: content for name, content in _members(path) if name.endswith(".bin")}
    parts = []
    for stems in (sorted(stem for stem in batches if stem.startswith("data_batch")), ["test_batch"]):
        content = b"".join(batches.get(stem, b"") for stem in stems)
        if not content or len(content) % 3073:
            raise ValueError(f"{path.name} is not CIFAR-10 in binary: {stems} hold {len(content)} bytes")
        rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
        parts.append(Pictures(rows[:, 1:].reshape(-1, 3, 32, 32).copy(), rows[:, 0].astype(np.int64)))
    return parts[0], parts[1]


def cached(path: Path, decode: Callable[[], tuple[Pictures, ...]]) -> tuple[Pictures, ...]:
    """What ``decode()`` returns, from the file ``path`` (``.npz``) where it is there and whole.

    The file is written under another name and then renamed, so that a reader, or a second process that decodes the same
    archive, never meets half of it. A folder that cannot be written is no error: the pictures are decoded anew.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            parts = range(len(kept.files) // 2)
            return tuple(Pictures(kept[f"pixels{i}"], kept[f"labels{i}"]) for i in parts)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    found = decode()
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(scratch, **{f"{key}{i}": part for i, two in enumerate(found) for key, part in two._asdict().items()})
        os.replace(scratch, path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
    return found


def _published_or_packed(published: str, packed: str) -> tuple[str, list[Path]]:
    """The published files, unless ``REFIMPL_DATA`` has only the archive of single pictures; and which of the two."""
    known = registry()
    found = [local_file(file) for file in known[published]["files"]]
    if None in found:
        archive = local_file(known[packed]["files"][0])
        if archive is not None:
            return packed, [archive]
    return published, [there or fetch(file) for there, file in zip(found, known[published]["files"], strict=True)]


def _decoded(name: str, files: list[Path], decode: Callable[[], tuple[Pictures, ...]]) -> tuple[Pictures, ...]:
    digest = registry()[name]["files"][0]["sha256"]
    try:
        return cached(cache_folder() / "decoded" / f"{name}-{digest[:16]}.npz", decode)
    except ImportError as error:
        raise DatasetUnavailable(f"{files[0].name} holds pictures; to read them: pip install pillow") from error


def _about(name: str, note: str) -> dict[str, Any]:
    entry = registry()[name]
    return {"source": entry["source"], "licence": entry["licence"], "note": f"{note}; {entry['note']}"}


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar archive; nothing is unpacked onto the disk."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name.removeprefix("./"), content.read()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path.name} cannot be read as a tar archive: {error}") from error


def _matched(pattern: re.Pattern[str], name: str, path: Path) -> re.Match[str]:
    match = pattern.fullmatch(name)
    if match is None:
        raise ValueError(f"{path.name} holds {name!r}, expected names like {pattern.pattern}")
    return match


def _pixels(content: bytes, mode: str) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert(mode))


def _stacked(pixels: list[np.ndarray], labels: list[int], path: Path) -> Pictures:
    shapes = {picture.shape for picture in pixels}
    if len(shapes) != 1:
        raise ValueError(f"{path.name} must hold pictures of one size, got {sorted(shapes) or 'none at all'}")
    return Pictures(np.stack(pixels), np.asarray(labels, np.int64))


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    head = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{path.name} is not an IDX file of bytes with {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content[4:head], ">u4"))
    if len(content) - head != int(np.prod(shape)):
        raise ValueError(f"{path.name} holds {len(content) - head} bytes, its header promises {shape}")
    return np.frombuffer(content[head:], np.uint8).reshape(shape)
