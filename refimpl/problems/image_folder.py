"""Photographs of any size from folders, one for each class (the layout of ImageNet), as pictures of one size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from refimpl.arrays import as_generator, check_count, check_positive
from refimpl.problems.datasets import DatasetUnavailable, cache_folder
from refimpl.problems.image_files import Pictures
from refimpl.problems.picture_sets import About, PictureSet

_ENDINGS = (".jpg", ".jpeg", ".png")
_TOGETHER = 256

Files = list[tuple[Path, int]]
"""Files with their labels."""


def image_folder(
    folder: str | Path,
    *,
    size: int = 224,
    classes: int | None = None,
    split_seed: int = 0,
    train_share: float = 0.9,
) -> PictureSet:
    """The pictures ``folder/CLASS/*.jpg`` (or ``.jpeg``, ``.png``), resized to ``size`` x ``size`` pixels in color.

    The shorter side becomes ``size`` (bilinear, averaging where it shrinks), and the middle is cut out. Where there are
    ``folder/train/CLASS`` and ``folder/val/CLASS``, they are the training and the test pictures; otherwise
    ``train_share`` of each class train, chosen with ``split_seed``. Labels are the positions of the classes in
    alphabetical order, pictures are ordered by class and name.

    What was decoded is kept in the cache folder, 3 bytes for each of ``size**2`` pixels, for as long as the files have
    the same names, sizes and dates, and is read from there as it is needed (1.28 million pictures of 224 x 224 fill 193
    GB, 100 classes of ImageNet 19 GB). Where the cache cannot be written, pictures are kept in memory.

    Parameters
    ----------
    folder : where the classes are.
    size : pixels of a side.
    classes : take only so many classes, chosen at random with ``split_seed``; None for all.
    split_seed : decides classes and split.
    train_share : between 0 and 1; each class keeps at least one picture to train and one to test.

    Raises
    ------
    DatasetUnavailable
        No such folder, or Pillow is not installed.
    ValueError
        No classes, or fewer than asked for; a class without pictures, or with one where it has to be split; folders of
        ``val`` that are not those of ``train``; a file that cannot be read as a picture, which is named.

    Source: the subset of 100 classes chosen at random is that of the CurveBall paper, section 4 (ImageNet); the classes
    it chose are not published.
    """
    folder = Path(folder)
    check_count("size", size)
    if check_positive("train_share", train_share) >= 1:
        raise ValueError(f"train_share must lie between 0 and 1, got {train_share}")
    if not folder.is_dir():
        raise DatasetUnavailable(f"{folder} is no folder; it should hold one folder of pictures for each class")
    rng = as_generator(split_seed)
    split = (folder / "train").is_dir() and (folder / "val").is_dir()
    roots = [folder / "train", folder / "val"] if split else [folder]
    names = _class_names(roots, classes, rng)
    if split:
        parts = [_files(root, names, 1) for root in roots]
        note = "split as the folders are"
    else:
        parts = _divided(_files(folder, names, 2), len(names), train_share, rng)
        note = f"{train_share:g} of each class to train, own seeded split"
    train, test = (_decoded(folder, files, size) for files in parts)
    note += f"; shorter side resized to {size} pixels, middle cut out"
    if classes is not None:
        note += f"; {classes} classes chosen at random"
    return PictureSet(train, test, About(folder.name, names, "a folder of pictures", "that of the pictures", note))


def _class_names(roots: Sequence[Path], classes: int | None, rng: np.random.Generator) -> tuple[str, ...]:
    found = [sorted(entry.name for entry in root.iterdir() if _is_class(entry)) for root in roots]
    if found[0] != found[-1]:
        other = sorted(set(found[0]) ^ set(found[-1]))
        raise ValueError(f"{roots[0]} and {roots[-1]} must have the same classes, but only one of them has {other}")
    names = found[0]
    if classes is not None and check_count("classes", classes, minimum=2) > len(names):
        raise ValueError(f"{roots[0]} has {len(names)} classes, fewer than the {classes} asked for")
    if len(names) < 2:
        raise ValueError(f"{roots[0]} needs a folder of pictures for each of at least two classes, got {names}")
    if classes is not None:
        names = sorted(names[k] for k in rng.permutation(len(names))[:classes])
    return tuple(names)


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _files(root: Path, names: Sequence[str], fewest: int) -> Files:
    files: Files = []
    for label, name in enumerate(names):
        here = sorted(path for path in (root / name).iterdir() if path.suffix.lower() in _ENDINGS)
        if len(here) < fewest:
            raise ValueError(f"{root / name} needs at least {fewest} pictures ({', '.join(_ENDINGS)}), got {len(here)}")
        files += [(path, label) for path in here]
    return files


def _divided(files: Files, classes: int, share: float, rng: np.random.Generator) -> list[Files]:
    """Training and test files, ``share`` of each class."""
    labels = np.asarray([label for _, label in files])
    training = np.zeros(len(files), bool)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        training[rng.permutation(rows)[:count]] = True
    return [
        [file for file, chosen in zip(files, training == wanted, strict=True) if chosen] for wanted in (True, False)
    ]


def _decoded(folder: Path, files: Files, size: int) -> Pictures:
    """The pictures of ``files``, from the cache where it has them."""
    labels = np.asarray([label for _, label in files], np.int64)
    shape = (len(files), 3, size, size)
    key = hashlib.sha256(repr((size, str(folder.resolve()))).encode())
    for path, _ in files:
        status = path.stat()
        key.update(repr((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns)).encode())
    kept = cache_folder() / "decoded" / f"folder-{key.hexdigest()[:24]}.npy"
    with suppress(OSError, ValueError, EOFError):
        pixels = np.load(kept, mmap_mode="r", allow_pickle=False)
        if pixels.shape == shape and pixels.dtype == np.uint8:
            return Pictures(pixels, labels)
    scratch = kept.with_name(f".{kept.stem}.{os.getpid()}.npy")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        table = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.uint8, shape=shape)
    except OSError:
        return Pictures(_fill(np.empty(shape, np.uint8), folder, files), labels)
    try:
        _fill(table, folder, files)
        table.flush()
        del table
        os.replace(scratch, kept)
    finally:
        with suppress(OSError):
            scratch.unlink()
    return Pictures(np.load(kept, mmap_mode="r", allow_pickle=False), labels)


def _fill(table: np.ndarray, folder: Path, files: Files) -> np.ndarray:
    """``table`` (pictures, 3, size, size) with the pictures of ``files`` in it."""
    from tqdm import tqdm

    size, waiting = table.shape[-1], iter(enumerate(files))

    def put(entry: tuple[int, tuple[Path, int]]) -> None:
        row, (path, _) = entry
        table[row] = read_picture(path, size)

    # Pillow decodes without Python's lock. A piece at a time, so that a file that cannot be read is told of at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(files), desc=folder.name, disable=None) as bar:
        while piece := list(islice(waiting, _TOGETHER)):
            for _ in pool.map(put, piece):
                bar.update()
    return table


def read_picture(path: Path, size: int) -> np.ndarray:
    """A file's picture, (3, size, size) uint8: the shorter side resized to ``size``, the middle cut out.

    Raises
    ------
    DatasetUnavailable
        Pillow is not installed.
    ValueError
        The file cannot be read as a picture.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DatasetUnavailable("to read pictures from files: pip install pillow") from error
    try:
        with Image.open(path) as image:
            width, height = image.size
            wide, high = (max(size, round(side * size / min(width, height))) for side in (width, height))
            # JPEG can be decoded at a fraction of its size, which is several times faster.
            image.draft("RGB", (2 * wide, 2 * high))
            resized = image.convert("RGB").resize((wide, high), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    left, top = (wide - size) // 2, (high - size) // 2
    return np.moveaxis(np.asarray(resized.crop((left, top, left + size, top + size))), -1, 0)
