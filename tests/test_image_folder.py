"""Folders of photographs.

Oracles: pictures painted here whose pixels after resizing are known (one color, halves of two colors, sizes that need
no resizing, block means); NumPy slicing for the middle; names for labels and splits.
"""

import io
import os
import sys

import numpy as np
import pytest

from refimpl.problems import image_folder as module
from refimpl.problems.datasets import DatasetUnavailable
from refimpl.problems.image_folder import image_folder, read_picture

Image = pytest.importorskip("PIL.Image")
COLORS = {"ant": (250, 10, 20), "bee": (10, 240, 30), "cat": (20, 30, 230), "dog": (200, 200, 10)}
RNG = np.random.default_rng(0)


def paint(path, color, size=(20, 14), ending="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix("." + ending)
    Image.new("RGB", size, color).save(path)
    return path


def photographs(folder, counts, **options):
    """``counts[class]`` pictures of a class, each of its color with one channel that counts them."""
    for name, count in counts.items():
        for k in range(count):
            red, green, _ = COLORS[name]
            paint(folder / name / f"{k:03d}", (red, green, k), **options)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "decoded"


def numbers(part):
    """Label and number of each picture, read off its color."""
    assert (part.pixels == part.pixels[:, :, :1, :1]).all()
    order = sorted(COLORS)
    seen = part.pixels[:, :, 0, 0]
    for label, color in zip(part.labels, seen, strict=True):
        assert tuple(color[:2]) in {COLORS[name][:2] for name in order}
        assert label >= 0
    return [(int(label), int(color[2])) for label, color in zip(part.labels, seen, strict=True)]


# -- one picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height", "left", "top"), [(9, 9, 0, 0), (14, 9, 2, 0), (9, 16, 0, 3)])
def test_the_middle_is_cut_out(width, height, left, top, tmp_path):
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = read_picture(tmp_path / "x.png", 9)  # the shorter side is 9 already
    np.testing.assert_array_equal(found, np.moveaxis(pixels[top : top + 9, left : left + 9], -1, 0))
    assert found.dtype == np.uint8


def test_larger_pictures_are_averaged_down(tmp_path):
    pixels = RNG.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = read_picture(tmp_path / "x.png", 4).astype(float)
    middle = pixels[:, 8:72].astype(float)
    # Each pixel is a weighted mean of some 32 x 32 noisy ones: close to their mean, and far from any single one.
    assert np.abs(found - middle.mean((0, 1))[:, None, None]).max() < 20
    pixels[:, :40], pixels[:, 40:] = (200, 100, 0), (0, 50, 250)
    Image.fromarray(pixels).save(tmp_path / "y.png")
    found = read_picture(tmp_path / "y.png", 8)
    np.testing.assert_array_equal(found[:, :, 0], np.repeat([[200], [100], [0]], 8, axis=1))
    np.testing.assert_array_equal(found[:, :, -1], np.repeat([[0], [50], [250]], 8, axis=1))


@pytest.mark.parametrize(("mode", "color", "seen"), [("L", 90, (90,) * 3), ("RGBA", (9, 8, 7, 255), (9, 8, 7))])
def test_grey_and_transparent_pictures_become_color(mode, color, seen, tmp_path):
    Image.new(mode, (12, 7), color).save(tmp_path / "x.png")
    found = read_picture(tmp_path / "x.png", 5)
    np.testing.assert_array_equal(found, np.broadcast_to(np.asarray(seen)[:, None, None], (3, 5, 5)))


def test_jpeg_in_color(tmp_path):
    path = paint(tmp_path / "x", (200, 100, 20), (640, 480), "jpg")
    assert np.abs(read_picture(path, 16).astype(int) - np.asarray((200, 100, 20))[:, None, None]).max() <= 4


def test_smaller_pictures_are_enlarged(tmp_path):
    assert read_picture(paint(tmp_path / "x", (1, 2, 3), (3, 2)), 8).shape == (3, 8, 8)


# -- a folder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "PNG", "jpeg", "JPEG", "jpg"])
def test_endings(ending, tmp_path):
    folder = photographs(tmp_path / "set", {"ant": 2, "bee": 2}, ending=ending)
    (folder / "ant" / "notes.txt").write_text("not a picture")
    (folder / ".hidden").mkdir()
    (folder / "readme.txt").write_text("not a class")
    found = image_folder(folder, size=6)
    assert found.train.pixels.shape == found.test.pixels.shape == (2, 3, 6, 6)
    assert found.about.names == ("ant", "bee")


def test_every_class_is_split(tmp_path):
    folder = photographs(tmp_path / "set", {"ant": 10, "bee": 20, "cat": 2})
    train, test, about = image_folder(folder, size=6, train_share=0.8, split_seed=1)
    everything = {(0, k) for k in range(10)} | {(1, k) for k in range(20)} | {(2, k) for k in range(2)}
    assert len(train.labels) + len(test.labels) == len(everything)
    assert set(numbers(train)) | set(numbers(test)) == everything
    assert np.bincount(train.labels).tolist() == [8, 16, 1]
    assert (train.pixels.dtype, train.labels.dtype) == (np.uint8, np.int64)
    assert numbers(train) == sorted(numbers(train))
    assert (about.name, about.names, about.classes) == ("set", ("ant", "bee", "cat"), 3)
    assert "0.8 of each class" in about.note
    again, other = (image_folder(folder, size=6, train_share=0.8, split_seed=seed) for seed in (1, 2))
    assert numbers(again.train) == numbers(train)
    assert numbers(other.train) != numbers(train)
    for label, name in enumerate(about.names):
        assert (train.pixels[train.labels == label][:, :2, 0, 0] == COLORS[name][:2]).all()


def test_train_and_val_folders_are_the_split(tmp_path):
    photographs(tmp_path / "train", {"bee": 3, "ant": 2})
    photographs(tmp_path / "val", {"bee": 1, "ant": 4})
    train, test, about = image_folder(tmp_path, size=6)
    assert numbers(train) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert numbers(test) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert about.names == ("ant", "bee")
    assert "split as the folders are" in about.note


def test_some_classes_at_random(tmp_path):
    folder = photographs(tmp_path / "set", dict.fromkeys(COLORS, 2))
    chosen = {seed: image_folder(folder, size=6, classes=2, split_seed=seed) for seed in range(6)}
    for found in chosen.values():
        assert found.about.classes == 2
        assert list(found.about.names) == sorted(found.about.names)
        for label, name in enumerate(found.about.names):
            assert (found.train.pixels[found.train.labels == label][:, :2, 0, 0] == COLORS[name][:2]).all()
        assert "2 classes chosen at random" in found.about.note
    assert len({found.about.names for found in chosen.values()}) > 1
    assert image_folder(folder, size=6, classes=2, split_seed=3).about.names == chosen[3].about.names


# -- the cache --------------------------------------------------------------------------------------------------------


def refuse(path, size):
    raise AssertionError(f"decoded {path} again")


def test_pictures_are_decoded_once_and_read_as_needed(tmp_path, cache, monkeypatch):
    folder = photographs(tmp_path / "set", {"ant": 3, "bee": 3})
    first = image_folder(folder, size=6)
    assert isinstance(first.train.pixels, np.memmap)
    assert len(list(cache.iterdir())) == 2  # and no scratch file
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_picture", refuse)
        second = image_folder(folder, size=6)
        np.testing.assert_array_equal(second.train.pixels, first.train.pixels)
        np.testing.assert_array_equal(second.test.labels, first.test.labels)
        with pytest.raises(AssertionError, match="again"):
            image_folder(folder, size=7)
    path = paint(folder / "ant" / "000", (250, 10, 99), size=(33, 31))
    changed = image_folder(folder, size=6)
    assert 99 in changed.train.pixels[:, 2, 0, 0].tolist() + changed.test.pixels[:, 2, 0, 0].tolist()
    os.utime(path, ns=(1, 1))
    monkeypatch.setattr(module, "read_picture", refuse)
    with pytest.raises(AssertionError, match="again"):
        image_folder(folder, size=6)


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_damaged_cache_is_replaced(content, tmp_path, cache):
    folder = photographs(tmp_path / "set", {"ant": 3, "bee": 3})
    first = image_folder(folder, size=6)
    expected = np.array(first.train.pixels)
    for kept in cache.iterdir():
        whole = kept.read_bytes()
        kept.unlink()
        kept.write_bytes(whole[: len(whole) // 2] if content is None else content)
    np.testing.assert_array_equal(image_folder(folder, size=6).train.pixels, expected)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    folder = photographs(tmp_path / "set", {"ant": 3, "bee": 3})
    (tmp_path / "cache").write_text("a file where the folder should be")
    found = image_folder(folder, size=6)
    assert not isinstance(found.train.pixels, np.memmap)
    assert len(numbers(found.train)) == 4


def test_a_broken_file_is_named_and_leaves_no_cache(tmp_path, cache):
    folder = photographs(tmp_path / "set", {"ant": 3, "bee": 3})
    (folder / "bee" / "001.png").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"bee.001\.png cannot be read as a picture"):
        image_folder(folder, size=6, train_share=0.99)
    assert not list(cache.glob("*folder*"))


def test_a_truncated_file_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    path = tmp_path / "x.jpg"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(ValueError, match=r"x\.jpg cannot be read as a picture: .*truncated"):
        read_picture(path, 8)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path):
    with pytest.raises(DatasetUnavailable, match=r"is no folder; it should hold one folder of pictures for each class"):
        image_folder(tmp_path / "missing")


def test_no_pillow(tmp_path, monkeypatch):
    folder = photographs(tmp_path / "set", {"ant": 3, "bee": 3})
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DatasetUnavailable, match="pip install pillow"):
        image_folder(folder, size=6)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({}, {}, "at least two classes"),
        ({"ant": 4}, {}, r"at least two classes, got \['ant'\]"),
        ({"ant": 2, "bee": 2}, {"classes": 3}, "has 2 classes, fewer than the 3 asked for"),
        ({"ant": 2, "bee": 2}, {"classes": 1}, "classes"),
        ({"ant": 2, "bee": 1}, {}, r"bee needs at least 2 pictures .* got 1"),
        ({"ant": 2, "bee": 2}, {"size": 0}, "size"),
        ({"ant": 2, "bee": 2}, {"train_share": 1.0}, "train_share"),
        ({"ant": 2, "bee": 2}, {"train_share": 0}, "train_share"),
    ],
)
def test_malformed_input_is_refused(counts, options, message, tmp_path):
    folder = photographs(tmp_path / "set", counts)
    folder.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=message):
        image_folder(folder, **options)


def test_val_must_have_the_classes_of_train(tmp_path):
    photographs(tmp_path / "train", {"bee": 3, "ant": 2})
    photographs(tmp_path / "val", {"bee": 1})
    with pytest.raises(ValueError, match=r"only one of them has \['ant'\]"):
        image_folder(tmp_path, size=6)
    (tmp_path / "val" / "ant").mkdir()
    with pytest.raises(ValueError, match=r"ant needs at least 1 pictures"):
        image_folder(tmp_path, size=6)


# -- as a problem -----------------------------------------------------------------------------------------------------


def test_vgg_f_learns_a_folder(tmp_path):
    torch = pytest.importorskip("torch")
    from refimpl import get_backend
    from refimpl.optimizers.curveball import CurveBall
    from refimpl.problems.image_problem import ImageProblem
    from refimpl.problems.losses import SoftmaxCrossEntropy
    from refimpl.problems.models import vgg_f

    folder = photographs(tmp_path / "set", {"ant": 6, "bee": 6, "cat": 6}, size=(60, 40))
    train, test, about = image_folder(folder, size=32)
    net = vgg_f(image_shape=(3, 32, 32), classes=about.classes, width=4, hidden=16, backend=get_backend("torch"))
    problem = ImageProblem(net, SoftmaxCrossEntropy(), *train, test=test, augment="crop-flip")
    rng = np.random.default_rng(0)
    x, sample = problem.initial(rng), problem.draw(rng)
    point = problem.at(x, sample)
    method = CurveBall()
    state, losses = method.init(x), [float(point.loss)]
    for _ in range(5):
        step = method.step(problem.at(x, sample), state)
        x, state = step.x, step.state
        losses.append(float(problem.loss(x, sample)))
    assert losses[1] < losses[0]
    assert losses[-1] < losses[1]
    assert torch.isfinite(torch.stack(list(problem.evaluate(x).values()))).all()
