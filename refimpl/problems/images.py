"""Sets of pictures as numbers in [0, 1]: MNIST and its 10,000 test images, Fashion-MNIST, SVHN and CIFAR-10.

Some exist in two forms: the files as published, which can be downloaded, and an archive of single pictures, which is
only looked for in the folder ``REFIMPL_DATA``. Decoded pixels are kept in the cache folder, because decoding takes
longer than training a small network. The same sets as bytes, four times smaller, are in
:mod:`refimpl.problems.picture_sets`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refimpl.problems.datasets import Dataset, digits, mnist1d, or_fallback, permutation, split_rows
from refimpl.problems.image_files import CLASSES as CLASSES
from refimpl.problems.image_files import Pictures as Pictures
from refimpl.problems.image_files import cached as cached
from refimpl.problems.image_files import read_cifar_binary as read_cifar_binary
from refimpl.problems.image_files import read_digit_archive as read_digit_archive
from refimpl.problems.image_files import read_idx as read_idx
from refimpl.problems.image_files import read_photo_archive as read_photo_archive
from refimpl.problems.image_files import read_svhn as read_svhn
from refimpl.problems.picture_sets import PictureSet as PictureSet
from refimpl.problems.picture_sets import cifar10_pictures as cifar10_pictures
from refimpl.problems.picture_sets import cifar10_pictures_or_fallback as cifar10_pictures_or_fallback
from refimpl.problems.picture_sets import decoded, provenance, published_or_packed
from refimpl.problems.picture_sets import digit_pictures as digit_pictures
from refimpl.problems.picture_sets import fashion_mnist_pictures as fashion_mnist_pictures
from refimpl.problems.picture_sets import fashion_mnist_pictures_or_fallback as fashion_mnist_pictures_or_fallback
from refimpl.problems.picture_sets import mnist_pictures as mnist_pictures
from refimpl.problems.picture_sets import mnist_pictures_or_fallback as mnist_pictures_or_fallback
from refimpl.problems.picture_sets import svhn_pictures as svhn_pictures
from refimpl.problems.picture_sets import svhn_pictures_or_fallback as svhn_pictures_or_fallback


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
    name, files = published_or_packed("mnist_10k", "mnist_10k_png")
    read = read_digit_archive if name == "mnist_10k_png" else read_idx
    (found,) = decoded(name, files, lambda: (read(*files),))
    rows = len(found.labels)
    return split_rows(
        "mnist_10k", found.pixels.reshape(rows, -1) / 255.0, found.labels,
        sizes=(rows * 4 // 5, 0, rows - rows * 4 // 5), order=permutation(rows, split_seed),
        classes=10, image_shape=found.pixels.shape[1:], **provenance(name, "own seeded split; pixels divided by 255"),
    )  # fmt: skip


def mnist(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> Dataset:
    """MNIST, 28 x 28 pixels in [0, 1]: 60,000 rows to train, 10,000 to test, 10 classes. Inputs are float32.

    Both parts are permuted with ``split_seed``; ``train_rows`` and ``test_rows`` take only the first so many of them.

    Raises
    ------
    DatasetUnavailable
        The published files are not in ``REFIMPL_DATA`` and cannot be downloaded.
    ValueError
        The files found are not the registered ones, a malformed ``split_seed``, or more rows than there are.
    """
    return _numbers(mnist_pictures(split_seed, train_rows, test_rows))


def fashion_mnist(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> Dataset:
    """Fashion-MNIST, clothes of 28 x 28 pixels: 60,000 rows to train, 10,000 to test. Otherwise as :func:`mnist`."""
    return _numbers(fashion_mnist_pictures(split_seed, train_rows, test_rows))


def svhn(split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None) -> Dataset:
    """SVHN's cropped digits, 32 x 32 pixels in three colors: 73,257 rows to train, 26,032 to test.

    Otherwise as :func:`mnist`; 305 million numbers, 1.2 GB.
    """
    return _numbers(svhn_pictures(split_seed, train_rows, test_rows))


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
    return _numbers(cifar10_pictures(split_seed, train_rows, test_rows))


def mnist_10k_or_fallback(split_seed: int = 0) -> tuple[Dataset, str]:
    """The 10,000 MNIST images or, where they cannot be had, MNIST-1D; and a sentence saying so, else empty."""
    return or_fallback("MNIST", lambda: mnist_10k(split_seed), lambda: mnist1d(split_seed), "MNIST-1D (4000 signals)")


def cifar10_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[Dataset, str]:
    """CIFAR-10 or, where it cannot be had, all of scikit-learn's digits; and a sentence saying so, else empty."""
    return _or_digits("CIFAR-10", lambda: cifar10(split_seed, train_rows, test_rows), split_seed)


def mnist_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[Dataset, str]:
    """MNIST or, where it cannot be had, all of scikit-learn's digits; and a sentence saying so, else empty."""
    return _or_digits("MNIST", lambda: mnist(split_seed, train_rows, test_rows), split_seed)


def fashion_mnist_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[Dataset, str]:
    """Fashion-MNIST or digits, as :func:`mnist_or_fallback`."""
    return _or_digits("Fashion-MNIST", lambda: fashion_mnist(split_seed, train_rows, test_rows), split_seed)


def svhn_or_fallback(
    split_seed: int = 0, train_rows: int | None = None, test_rows: int | None = None
) -> tuple[Dataset, str]:
    """SVHN or digits, as :func:`mnist_or_fallback`."""
    return _or_digits("SVHN", lambda: svhn(split_seed, train_rows, test_rows), split_seed)


def _or_digits(title: str, wanted: Callable[[], Dataset], split_seed: int) -> tuple[Dataset, str]:
    return or_fallback(title, wanted, lambda: digits(split_seed), "digits of 8 x 8 pixels (1197 images)")


def _numbers(pictures: PictureSet) -> Dataset:
    """Pictures of bytes as rows of float32 in [0, 1], without validation rows."""
    about = pictures.about
    note = about.note.replace("order;", "order; pixels divided by 255;", 1)
    train, test = (part.pixels.reshape(len(part.labels), -1) / np.float32(255) for part in pictures[:2])
    return Dataset(
        about.name, train, pictures.train.labels, train[:0], pictures.train.labels[:0], test, pictures.test.labels,
        source=about.source, licence=about.licence, note=note,
        classes=about.classes, image_shape=pictures.train.pixels.shape[1:],
    )  # fmt: skip
