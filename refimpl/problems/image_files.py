"""Files that hold pictures, read into arrays of bytes, and the cache of what was read."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of CIFAR-10; a label is a position in this tuple."""

_DIGIT = re.compile(r"(\d+)-num(\d)\.png")
_PHOTO = re.compile(r"(train|test)/([a-z]+)/(\d+)\.jpg")


class Pictures(NamedTuple):
    """Pixels 0 … 255, (pictures, channels, height, width) uint8, and labels, (pictures,) int64."""

    pixels: np.ndarray
    labels: np.ndarray


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


def read_svhn(path: Path) -> Pictures:
    """A MATLAB file of SVHN's cropped digits. The published label 10 means the digit 0.

    Raises
    ------
    ValueError
        Not such a file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=["X", "y"])
        pixels, names = np.asarray(content["X"]), np.asarray(content["y"]).ravel().astype(np.int64)
    except (MatReadError, KeyError, ValueError, TypeError, NotImplementedError, OSError, zlib.error) as error:
        raise ValueError(f"{path.name} is not a MATLAB file with the arrays X and y: {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2:] != (3, len(names)):
        raise ValueError(
            f"{path.name} needs X (height, width, 3, pictures) uint8 and as many labels, got {pixels.dtype} "
            f"{pixels.shape} and {len(names)} labels"
        )
    if len(names) == 0 or names.min() < 1 or names.max() > 10:
        raise ValueError(f"{path.name} needs labels 1 … 10, got {sorted(set(names.tolist()))}")
    return Pictures(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), names % 10)


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
