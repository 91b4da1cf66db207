"""Sets of pictures, as bytes and as numbers, from either form of their files, and without them.

Oracles: small archives written here with Pillow, ``struct``, ``tarfile`` and SciPy from pixels that are known; the
SHA-256 of MNIST's published labels for the PNG copy; class counts as published for CIFAR-10.
"""

import gzip
import hashlib
import io
import os
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from refimpl.problems import datasets, images, picture_sets
from refimpl.problems.datasets import DatasetUnavailable

Image = pytest.importorskip("PIL.Image")
FOLDER = os.environ.get("REFIMPL_DATA")
RNG = np.random.default_rng(0)
DIGITS, DIGIT_LABELS = RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8), np.arange(20) % 10
PHOTOS, PHOTO_LABELS = RNG.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8), np.arange(30) % 10
NAMES = {
    "mnist_10k": ["mnist_10k/t10k-images-idx3-ubyte.gz", "mnist_10k/t10k-labels-idx1-ubyte.gz"],
    "mnist_10k_png": ["mnist_10k/mnist-10k-png.tar.xz"],
    "cifar10": ["cifar10/cifar-10-binary.tar.gz"],
    "cifar10_jpeg": ["cifar10_jpeg/cifar10-jpeg.tar.xz"],
    "svhn": ["svhn/train_32x32.mat", "svhn/test_32x32.mat"],
}
for _name in ("mnist", "fashion_mnist"):
    NAMES[_name] = [
        f"{_name}/{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]


def with_file(name):
    there = FOLDER and all(Path(FOLDER, path).is_file() for path in NAMES[name])
    return pytest.mark.skipif(not there, reason=f"REFIMPL_DATA has no {name}")


def tar(path, files, mode="w:xz"):
    """An archive of ``files``, (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def encoded(pixels, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def write_png(path):
    order = RNG.permutation(20)  # the order in the archive must not matter
    return tar(path, [(f"{i:06d}-num{DIGIT_LABELS[i]}.png", encoded(DIGITS[i], "PNG")) for i in order])


def write_idx(images_path, labels_path, rows=slice(None)):
    images_path.parent.mkdir(parents=True, exist_ok=True)
    pixels, labels = DIGITS[rows], DIGIT_LABELS[rows].astype(np.uint8)
    images_path.write_bytes(gzip.compress(struct.pack(">IIII", 2051, len(pixels), 28, 28) + pixels.tobytes()))
    labels_path.write_bytes(gzip.compress(struct.pack(">II", 2049, len(labels)) + labels.tobytes()))


def write_two_idx(train_images, train_labels, test_images, test_labels):
    write_idx(train_images, train_labels, slice(0, 14))
    write_idx(test_images, test_labels, slice(14, 20))


def write_svhn(train, test):
    train.parent.mkdir(parents=True, exist_ok=True)
    for path, rows in ((train, slice(0, 20)), (test, slice(20, 30))):
        labels = np.where(PHOTO_LABELS[rows] == 0, 10, PHOTO_LABELS[rows])[:, None]
        savemat(path, {"X": np.moveaxis(PHOTOS[rows], (0, 1), (3, 2)), "y": labels.astype(np.uint8)})


def write_binary(path):
    rows = [bytes([label]) + photo.tobytes() for label, photo in zip(PHOTO_LABELS, PHOTOS, strict=True)]
    batches = {f"data_batch_{k + 1}.bin": b"".join(rows[4 * k : 4 * k + 4]) for k in range(5)}
    batches |= {"test_batch.bin": b"".join(rows[20:]), "batches.meta.txt": b"airplane\n"}
    return tar(path, [(f"cifar-10-batches-bin/{name}", content) for name, content in batches.items()], "w:gz")


def write_jpeg(path):
    files = []
    for index in RNG.permutation(30):
        folder, name = ("train" if index < 20 else "test"), images.CLASSES[PHOTO_LABELS[index]]
        flat = np.broadcast_to(PHOTOS[index, :, :1, :1], (3, 32, 32))  # one color: JPEG keeps it but for rounding
        content = encoded(np.ascontiguousarray(np.moveaxis(flat, 0, -1)), "JPEG", quality=95)
        files.append((f"{folder}/{name}/{index // 10:04d}.jpg", content))
    return tar(path, files)


WRITERS = {"mnist_10k": write_idx, "mnist_10k_png": write_png, "cifar10": write_binary, "cifar10_jpeg": write_jpeg}
WRITERS |= {"mnist": write_two_idx, "fashion_mnist": write_two_idx, "svhn": write_svhn}
SETS = {  # training and test pictures and labels, as written
    "mnist": (DIGITS[:14, None], DIGIT_LABELS[:14], DIGITS[14:, None], DIGIT_LABELS[14:]),
    "svhn": (PHOTOS[:20], PHOTO_LABELS[:20], PHOTOS[20:], PHOTO_LABELS[20:]),
}
SETS |= {"fashion_mnist": SETS["mnist"], "cifar10": SETS["svhn"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``folder(name, …)``: a REFIMPL_DATA with these small sets and their checksums; an empty cache; no network."""

    def refuse(entry):
        raise ConnectionError("no network")

    known = datasets.registry()

    def make(*names):
        for name in names:
            paths = [tmp_path / "data" / path for path in NAMES[name]]
            WRITERS[name](*paths)
            for entry, path in zip(known[name]["files"], paths, strict=True):
                entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return tmp_path

    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(datasets, "_download", refuse)
    monkeypatch.setattr(picture_sets, "registry", lambda: known)
    monkeypatch.setattr(picture_sets, "cache_folder", lambda: tmp_path / "cache")
    return make


# -- files to pixels --------------------------------------------------------------------------------------------------


def test_digits_of_both_forms_are_the_pixels_written(tmp_path):
    paths = tmp_path / "i.gz", tmp_path / "l.gz"
    write_idx(*paths)
    for found in (images.read_digit_archive(write_png(tmp_path / "a.tar.xz")), images.read_idx(*paths)):
        np.testing.assert_array_equal(found.pixels, DIGITS[:, None])
        np.testing.assert_array_equal(found.labels, DIGIT_LABELS)
        assert (found.pixels.dtype, found.labels.dtype) == (np.uint8, np.int64)


def test_binary_photographs_are_the_pixels_written(tmp_path):
    train, test = images.read_cifar_binary(write_binary(tmp_path / "c.tar.gz"))
    np.testing.assert_array_equal(np.concatenate([train.pixels, test.pixels]), PHOTOS)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), PHOTO_LABELS)
    assert (len(train.labels), len(test.labels)) == (20, 10)


def test_jpeg_photographs_by_class_and_number(tmp_path):
    train, test = images.read_photo_archive(write_jpeg(tmp_path / "j.tar.xz"))
    order = [10 * number + label for label in range(10) for number in (0, 1)]
    np.testing.assert_array_equal(train.labels, PHOTO_LABELS[order])
    np.testing.assert_array_equal(test.labels, np.arange(10))
    for found, wanted in ((train.pixels, PHOTOS[order]), (test.pixels, PHOTOS[20:])):
        gap = found.astype(int) - wanted[:, :, :1, :1].astype(int)
        assert np.abs(gap).max() <= 4  # lossy; red, green and blue exchanged would be far off


@pytest.mark.parametrize(
    ("read", "files", "message"),
    [
        ("read_digit_archive", [("7.png", b"")], "holds '7.png', expected names like"),
        ("read_digit_archive", [], "one size, got none at all"),
        ("read_photo_archive", [("train/lion/0001.jpg", b"")], "'lion' is none of the classes"),
        ("read_cifar_binary", [("a/data_batch_1.bin", b"123")], "not CIFAR-10 in binary"),
        ("read_cifar_binary", [], "not CIFAR-10 in binary"),
    ],
)
def test_other_archives_are_refused(read, files, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        getattr(images, read)(tar(tmp_path / "x.tar.xz", files))


def test_pictures_of_two_sizes_are_refused(tmp_path):
    files = [(f"{i:06d}-num1.png", encoded(np.zeros((i + 4, 4), np.uint8), "PNG")) for i in range(2)]
    with pytest.raises(ValueError, match="one size, got"):
        images.read_digit_archive(tar(tmp_path / "x.tar.xz", files))


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "x.tar.xz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"x\.tar\.xz cannot be read as a tar archive"):
        images.read_digit_archive(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack(">IIII", 2049, 20, 28, 28), "not an IDX file of bytes with 3 dimensions"),
        (struct.pack(">IIII", 2051, 20, 28, 28) + b"12", r"holds 2 bytes, its header promises \(20, 28, 28\)"),
        (struct.pack(">IIII", 2051, 1, 1, 2) + b"12", "1 images, but l.gz 20 labels"),
    ],
)
def test_other_idx_files_are_refused(content, message, tmp_path):
    write_idx(tmp_path / "i.gz", tmp_path / "l.gz")
    (tmp_path / "i.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        images.read_idx(tmp_path / "i.gz", tmp_path / "l.gz")


def test_street_numbers_are_the_pixels_written_and_ten_is_zero(tmp_path):
    write_svhn(tmp_path / "a.mat", tmp_path / "b.mat")
    found = images.read_svhn(tmp_path / "b.mat")
    np.testing.assert_array_equal(found.pixels, PHOTOS[20:])
    np.testing.assert_array_equal(found.labels, PHOTO_LABELS[20:])
    assert (found.pixels.dtype, found.labels.dtype) == (np.uint8, np.int64)
    assert found.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"X": np.zeros((4, 4, 3, 2), np.uint8)}, "x.mat is not a MATLAB file with the arrays X and y"),
        ({"X": np.zeros((4, 4, 3, 2)), "y": [[1], [2]]}, r"uint8 .* got float64 \(4, 4, 3, 2\) and 2 labels"),
        ({"X": np.zeros((4, 4, 3, 2), np.uint8), "y": [[1]]}, "1 labels"),
        ({"X": np.zeros((4, 4, 3, 2), np.uint8), "y": [[0], [1]]}, r"labels 1 … 10, got \[0, 1\]"),
        (None, "x.mat is not a MATLAB file"),
    ],
)
def test_other_matlab_files_are_refused(content, message, tmp_path):
    path = tmp_path / "x.mat"
    path.write_bytes(b"nothing of the kind") if content is None else savemat(path, content)
    with pytest.raises(ValueError, match=message):
        images.read_svhn(path)


# -- loaders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mnist_10k", "mnist_10k_png"])
def test_mnist_split_and_scale(form, folder):
    folder(form)
    data = images.mnist_10k(3)
    order = np.random.default_rng(3).permutation(20)
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    np.testing.assert_array_equal(inputs, DIGITS[order].reshape(20, -1) / 255)
    np.testing.assert_array_equal(np.concatenate([data.train_targets, data.test_targets]), DIGIT_LABELS[order])
    assert [len(part) for part in (data.train_inputs, data.val_inputs, data.test_inputs)] == [16, 0, 4]
    assert (data.name, data.classes, data.image_shape) == ("mnist_10k", 10, (1, 28, 28))
    assert data.licence == "CC BY-SA 3.0"
    assert ("brightest pixel is 255" in data.note) == (form == "mnist_10k_png")


@pytest.mark.parametrize("form", ["cifar10", "cifar10_jpeg"])
def test_cifar_order_and_subsets(form, folder):
    folder(form)
    whole, part = images.cifar10(5), images.cifar10(5, train_rows=7, test_rows=2)
    assert [len(p) for p in (whole.train_inputs, whole.val_inputs, whole.test_inputs)] == [20, 0, 10]
    assert whole.train_inputs.dtype == np.float32
    assert whole.train_inputs.shape[1] == 3072
    assert 0 <= whole.train_inputs.min() < whole.train_inputs.max() <= 1
    np.testing.assert_array_equal(part.train_inputs, whole.train_inputs[:7])
    np.testing.assert_array_equal(part.test_targets, whole.test_targets[:2])
    assert sorted(whole.train_targets) == sorted(PHOTO_LABELS[:20])
    assert ("lossy" in whole.note) == (form == "cifar10_jpeg")
    assert (whole.name, whole.image_shape) == ("cifar10", (3, 32, 32))
    if form == "cifar10":
        order = np.random.default_rng(5).permutation(20)
        np.testing.assert_allclose(whole.train_inputs, PHOTOS[:20][order].reshape(20, -1) / 255, rtol=1e-6)
        np.testing.assert_array_equal(whole.train_targets, PHOTO_LABELS[:20][order])


@pytest.mark.parametrize("options", [{"train_rows": 21}, {"test_rows": 11}, {"train_rows": 0}, {"test_rows": 1.5}])
def test_cifar_wrong_rows_are_refused(options, folder):
    folder("cifar10")
    with pytest.raises(ValueError, match=next(iter(options))):
        images.cifar10(**options)


@pytest.mark.parametrize("name", SETS)
def test_bytes_and_numbers_are_the_rows_written(name, folder):
    folder(name)
    train, test, about = getattr(images, f"{name}_pictures")(5)
    pixels, labels, test_pixels, test_labels = SETS[name]
    for found, wanted, classes in ((train, pixels, labels), (test, test_pixels, test_labels)):
        order = np.random.default_rng(5).permutation(len(classes))
        np.testing.assert_array_equal(found.pixels, wanted[order])
        np.testing.assert_array_equal(found.labels, classes[order])
        assert (found.pixels.dtype, found.labels.dtype) == (np.uint8, np.int64)
    assert (about.name, about.classes, len(about.names)) == (name, 10, 10)
    entry = datasets.registry()[name]
    assert (about.source, about.licence) == (entry["source"], entry["licence"])
    assert about.note == f"own seeded order; {entry['note']}"

    data = getattr(images, name)(5)
    np.testing.assert_array_equal(data.train_inputs, train.pixels.reshape(len(labels), -1) / np.float32(255))
    np.testing.assert_array_equal(data.test_inputs, test.pixels.reshape(len(test_labels), -1) / np.float32(255))
    np.testing.assert_array_equal(data.train_targets, train.labels)
    np.testing.assert_array_equal(data.test_targets, test.labels)
    assert data.train_inputs.dtype == np.float32
    assert (data.name, data.classes, data.image_shape) == (name, 10, pixels.shape[1:])
    assert data.note == f"own seeded order; pixels divided by 255; {entry['note']}"
    assert data.val_inputs.shape == (0, pixels[0].size)

    few = getattr(images, f"{name}_pictures")(5, 3, 2)
    np.testing.assert_array_equal(few.train.pixels, train.pixels[:3])
    np.testing.assert_array_equal(few.test.labels, test.labels[:2])
    for wrong in ({"train_rows": len(labels) + 1}, {"test_rows": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            getattr(images, f"{name}_pictures")(**wrong)


@pytest.mark.parametrize("name", SETS)
def test_without_files_bytes_and_numbers_are_digits(name, folder):
    folder()
    with pytest.raises(DatasetUnavailable, match="download http"):
        getattr(images, name)()
    found, note = getattr(images, f"{name}_pictures_or_fallback")(3)
    title = datasets.registry()[name]["title"].split(",")[0]
    assert note.startswith(f"{title} is not available here")
    assert "Reason: " in note
    assert found.about.name == "digits"
    assert found.about.note.endswith(f"stands in for {title}")
    assert found.train.pixels.shape == (1197, 1, 8, 8)
    assert found.test.pixels.shape == (300, 1, 8, 8)
    few, _ = getattr(images, f"{name}_pictures_or_fallback")(3, 50_000, 7)
    np.testing.assert_array_equal(few.train.pixels, found.train.pixels)
    np.testing.assert_array_equal(few.test.pixels, found.test.pixels[:7])
    data, note = getattr(images, f"{name}_or_fallback")(3)
    assert note.startswith(f"{title} is not available here")
    np.testing.assert_array_equal(found.train.labels, data.train_targets)
    np.testing.assert_allclose(found.test.pixels.reshape(300, -1) / 255, data.test_inputs, atol=0.5 / 255 + 1e-9)
    folder(name)
    found, note = getattr(images, f"{name}_pictures_or_fallback")(3, 4)
    assert (found.about.name, len(found.train.labels), note) == (name, 4, "")
    data, note = getattr(images, f"{name}_or_fallback")(3)
    assert (data.name, note) == (name, "")


def test_published_files_are_preferred(folder):
    folder("mnist_10k", "mnist_10k_png")
    assert "brightest" not in images.mnist_10k().note


def test_half_of_the_published_files_is_not_enough(folder):
    place = folder("mnist_10k", "mnist_10k_png")
    (place / "data" / NAMES["mnist_10k"][1]).unlink()
    assert "brightest" in images.mnist_10k().note


@pytest.mark.parametrize(("loader", "form"), [("mnist_10k", "mnist_10k_png"), ("cifar10", "cifar10_jpeg")])
def test_a_changed_archive_is_refused(loader, form, folder):
    path = folder(form) / "data" / NAMES[form][0]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="is not the published file: its SHA-256"):
        getattr(images, loader)()


@pytest.mark.parametrize(
    ("loader", "missing", "stand_in"),
    [
        (
            "mnist_10k",
            r"t10k-images-idx3-ubyte\.gz is not here .*not be downloaded \(Conn",
            "mnist1d",
        ),
        ("cifar10", r"cifar-10-binary\.tar\.gz is not here .*download https://", "digits"),
    ],
)
def test_without_files_and_network(loader, missing, stand_in, folder):
    folder()
    with pytest.raises(DatasetUnavailable, match=missing):
        getattr(images, loader)()
    data, note = getattr(images, f"{loader}_or_fallback")()
    assert data.name == stand_in
    assert "stands in for" in data.note
    assert "not available here" in note
    assert "Reason: " in note


def test_with_files_the_fallback_is_not_taken(folder):
    folder("mnist_10k_png", "cifar10")
    data, note = images.mnist_10k_or_fallback(1)
    assert (data.name, note) == ("mnist_10k", "")
    data, note = images.cifar10_or_fallback(1, 5, 4)
    assert (data.name, len(data.train_inputs), len(data.test_inputs), note) == ("cifar10", 5, 4, "")


def test_published_files_come_by_download(folder, monkeypatch):
    place = folder("mnist_10k") / "data"
    asked = []

    def download(entry):
        asked.append(entry["url"])
        return place / entry["path"]

    monkeypatch.delenv("REFIMPL_DATA")
    monkeypatch.setattr(datasets, "_download", download)
    assert len(images.mnist_10k().train_inputs) == 16
    assert asked == [entry["url"] for entry in datasets.registry()["mnist_10k"]["files"]]


def test_without_pillow_the_reason_is_named(folder, monkeypatch):
    folder("mnist_10k_png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DatasetUnavailable, match="pip install pillow"):
        images.mnist_10k()


def test_no_other_names_are_promised():
    with pytest.raises(AttributeError, match="has no attribute 'svhn'"):
        _ = datasets.svhn


# -- cache ------------------------------------------------------------------------------------------------------------


def test_pictures_are_decoded_once(folder, monkeypatch):
    place = folder("cifar10")
    first = images.cifar10()
    monkeypatch.setattr(picture_sets, "read_cifar_binary", lambda path: pytest.fail("decoded again"))
    np.testing.assert_array_equal(images.cifar10().train_inputs, first.train_inputs)
    kept = list((place / "cache" / "decoded").iterdir())
    assert [path.suffix for path in kept] == [".npz"]  # and no scratch file


def test_the_cache_belongs_to_one_file(folder, monkeypatch):
    folder("mnist_10k_png")
    first = images.mnist_10k()
    monkeypatch.setattr(sys.modules[__name__], "DIGITS", 255 - DIGITS)
    folder("mnist_10k_png")  # another archive at the same place, with another checksum
    np.testing.assert_allclose(images.mnist_10k().train_inputs, 1 - first.train_inputs, atol=1e-12)


@pytest.mark.parametrize("damage", ["half", "empty", "other"])
def test_a_damaged_cache_is_replaced(damage, folder):
    place = folder("mnist_10k_png")
    first = images.mnist_10k()
    (kept,) = (place / "cache" / "decoded").iterdir()
    whole = kept.read_bytes()
    if damage == "other":
        np.savez(kept, something=np.zeros(2), more=np.zeros(2))
    else:
        kept.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    np.testing.assert_array_equal(images.mnist_10k().train_inputs, first.train_inputs)
    with np.load(kept) as again:
        assert set(again.files) == {"pixels0", "labels0"}


def test_a_process_killed_while_writing_leaves_no_cache(folder, monkeypatch):
    place = folder("mnist_10k_png")

    def dies(path, **arrays):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(images.np, "savez", dies)
        with pytest.raises(KeyboardInterrupt):
            images.mnist_10k()
    assert all(path.name.startswith(".") for path in (place / "cache" / "decoded").iterdir())
    assert len(images.mnist_10k().train_inputs) == 16


def test_a_folder_that_cannot_be_written_is_no_error(folder, monkeypatch):
    place = folder("mnist_10k_png")
    (place / "cache").write_text("a file where the folder should be")
    assert len(images.mnist_10k().train_inputs) == 16


# -- the real files ---------------------------------------------------------------------------------------------------


@with_file("mnist_10k_png")
def test_png_copy_has_the_published_labels_in_the_published_order():
    found = images.read_digit_archive(Path(FOLDER, NAMES["mnist_10k_png"][0]))
    as_published = struct.pack(">II", 2049, 10000) + found.labels.astype(np.uint8).tobytes()
    digest = hashlib.sha256(as_published).hexdigest()
    assert digest == "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"  # t10k-labels-idx1-ubyte
    assert found.pixels.shape == (10000, 1, 28, 28)
    assert set(found.pixels.max(axis=(1, 2, 3))) == {255}  # as its note says


@with_file("mnist_10k_png")
def test_mnist_has_the_promised_rows():
    data = images.mnist_10k()
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((8000, 784), (2000, 784))
    assert set(data.train_targets) == set(range(10))
    assert not np.array_equal(data.train_targets, images.mnist_10k(1).train_targets)


@with_file("cifar10_jpeg")
@pytest.mark.slow
def test_cifar_has_the_published_counts():
    data = images.cifar10()
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((50000, 3072), (10000, 3072))
    assert np.bincount(data.train_targets).tolist() == [5000] * 10
    assert np.bincount(data.test_targets).tolist() == [1000] * 10
    means = data.train_inputs.reshape(50000, 3, -1).mean(axis=(0, 2))
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-3)  # as commonly quoted for the original
