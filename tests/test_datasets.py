"""Datasets: published sizes, statistics computed by hand, disjoint splits, and what happens without the file."""

import hashlib
import json
import os
import random
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from refimpl.problems import datasets
from refimpl.problems.datasets import DatasetUnavailable
from refimpl.problems.downloads import ResumingDownloader

FOLDER = os.environ.get("REFIMPL_DATA")
with_file = pytest.mark.skipif(
    not FOLDER or not Path(FOLDER, "uci_energy", "data.txt").is_file(), reason="REFIMPL_DATA has no uci_energy"
)
SIZES = {
    "uci_energy": ((588, 8), (104, 8), (76, 8)),
    "diabetes": ((338, 10), (60, 10), (44, 10)),
    "digits": ((1197, 64), (300, 64), (300, 64)),
    "mnist1d": ((4000, 40), (0, 40), (1000, 40)),
    "xor": ((4, 2), (4, 2), (4, 2)),
}
NAMES = [pytest.param(name, marks=with_file if name == "uci_energy" else []) for name in SIZES]
over_datasets = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def load():
    known = {}

    def loaded(name):
        if name not in known:
            known[name] = guarded_mnist1d() if name == "mnist1d" else getattr(datasets, name)()
        return known[name]

    return loaded


@pytest.fixture
def offline(monkeypatch):
    """No folder, no download: what pooch meets on a machine without network and with an empty cache."""

    def refuse(entry):
        raise ConnectionError("no network")

    monkeypatch.delenv("REFIMPL_DATA", raising=False)
    monkeypatch.setattr(datasets, "_download", refuse)


def rows(data):
    """All rows with their targets, as a sorted table that ignores order."""
    parts = [(data.train_inputs, data.train_targets), (data.val_inputs, data.val_targets)]
    parts.append((data.test_inputs, data.test_targets))
    return np.concatenate([np.column_stack(part) for part in parts])


@over_datasets
def test_shapes_types_and_provenance(name, load):
    data = load(name)
    inputs = data.train_inputs, data.val_inputs, data.test_inputs
    targets = data.train_targets, data.val_targets, data.test_targets
    assert data.name == name
    assert tuple(part.shape for part in inputs) == SIZES[name]
    assert tuple(len(part) for part in targets) == tuple(shape[0] for shape in SIZES[name])
    assert all(part.dtype == np.float64 and np.isfinite(part).all() for part in inputs)
    assert all(part.dtype == (np.int64 if data.classes > 2 else np.float64) for part in targets)
    assert data.source
    assert data.licence
    if data.classes > 2:
        assert set(data.train_targets) == set(range(data.classes))


@pytest.mark.parametrize("name", [pytest.param("uci_energy", marks=with_file), "diabetes"])
def test_standardized_over_training_and_validation_rows(name, load):
    data = load(name)
    seen = np.concatenate([data.train_inputs, data.val_inputs])
    targets = np.concatenate([data.train_targets, data.val_targets])
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose(seen.std(axis=0, ddof=1), 1, rtol=1e-13)
    assert targets.mean() == pytest.approx(0, abs=1e-13)
    assert targets.std(ddof=1) == pytest.approx(1, rel=1e-13)
    assert abs(data.train_targets.mean()) > 1e-6  # the training rows alone are not


@with_file
def test_energy_rows_are_the_rows_of_the_file(load):
    data, table = load("uci_energy"), np.loadtxt(Path(FOLDER, "uci_energy", "data.txt"))
    assert data.target_scale == pytest.approx(10.144, abs=0.3)  # the paper's own split has 10.144 and 22.38
    assert data.target_offset == pytest.approx(22.38, abs=0.3)
    heating = np.concatenate([data.train_targets, data.val_targets, data.test_targets])
    heating = heating * data.target_scale + data.target_offset
    np.testing.assert_allclose(np.sort(heating), np.sort(table[:, -1]), rtol=1e-12)
    order = np.random.default_rng(0).permutation(768)
    np.testing.assert_allclose(heating, table[order, -1], rtol=1e-12)


@pytest.mark.parametrize("name", [pytest.param("uci_energy", marks=with_file), "diabetes", "digits"])
def test_splits_are_disjoint_complete_and_seeded(name, load):
    data, again, other = load(name), getattr(datasets, name)(0), getattr(datasets, name)(1)
    table = rows(data)
    np.testing.assert_array_equal(table, rows(again))
    assert not np.array_equal(data.train_targets, other.train_targets)
    if name == "digits":  # not rescaled, so the rows themselves can be compared
        np.testing.assert_array_equal(np.sort(table, axis=0), np.sort(rows(other), axis=0))
    # Rows of these tables are distinct, so equal counts of distinct rows mean disjoint and complete.
    assert len(np.unique(table, axis=0)) == len(table)


def test_digits_are_pixels(load):
    data = load("digits")
    assert data.image_shape == (1, 8, 8)
    assert data.train_inputs.min() == 0
    assert data.train_inputs.max() == 1


def guarded_mnist1d():
    """Generated with every connection refused, and with the global generators watched."""

    def refuse(*arguments, **options):
        raise AssertionError("mnist1d opened a connection")

    np.random.seed(123)  # noqa: NPY002
    random.seed(123)
    before, before_python = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        data = datasets.mnist1d()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert random.getstate() == before_python
    return data


def test_mnist1d_is_the_published_set(load):
    data = load("mnist1d")  # generated without a network, see guarded_mnist1d
    everything = np.concatenate([data.train_inputs, data.test_inputs])
    assert everything.mean() == pytest.approx(0, abs=1e-12)
    assert everything.std() == pytest.approx(1)
    assert len(np.unique(everything, axis=0)) == 5000


def test_validation_rows_are_taken_from_the_training_rows(load, monkeypatch):
    whole = load("mnist1d")
    made = {"x": whole.train_inputs, "y": whole.train_targets, "x_test": whole.test_inputs}
    stub = SimpleNamespace(
        get_dataset_args=lambda: None, make_dataset=lambda arguments: made | {"y_test": whole.test_targets}
    )
    monkeypatch.setattr(datasets, "_optional", lambda module, package: stub)
    data = datasets.mnist1d(validation_rows=600)
    assert (len(data.train_inputs), len(data.val_inputs), len(data.test_inputs)) == (3400, 600, 1000)
    np.testing.assert_array_equal(data.test_inputs, whole.test_inputs)
    np.testing.assert_array_equal(np.sort(rows(data), axis=0), np.sort(rows(whole), axis=0))
    with pytest.raises(ValueError, match="less than 4000"):
        datasets.mnist1d(validation_rows=4000)


@pytest.mark.parametrize("count", [-1, 1.5])
def test_malformed_counts_are_refused(count):
    with pytest.raises(ValueError, match="validation_rows"):
        datasets.mnist1d(validation_rows=count)


@pytest.mark.parametrize("seed", [-1, "a", 0.5])
def test_malformed_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        datasets.diabetes(seed)


def test_without_the_file_the_error_says_what_to_do(offline):
    with pytest.raises(DatasetUnavailable, match=r"REFIMPL_DATA is not set.*https://.*uci_energy/data\.txt"):
        datasets.uci_energy()


def test_without_the_file_the_fallback_says_so(offline):
    data, note = datasets.uci_energy_or_fallback()
    assert data.name == "diabetes"
    assert "stands in for UCI Energy" in data.note
    assert "not available" in note
    assert "differ from those of the paper" in note


@with_file
def test_with_the_file_there_is_no_note():
    data, note = datasets.uci_energy_or_fallback()
    assert (data.name, note) == ("uci_energy", "")


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch):
    place = tmp_path / "uci_energy" / "data.txt"
    place.parent.mkdir()
    place.write_text("1 2 3\n")
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path))
    for loader in (datasets.uci_energy, datasets.uci_energy_or_fallback):
        with pytest.raises(ValueError, match=r"data\.txt is not the published file"):
            loader()


def test_an_empty_folder_leads_to_the_download(tmp_path, monkeypatch):
    source = tmp_path / "downloaded.txt"
    table = np.random.default_rng(0).standard_normal((768, 9))
    np.savetxt(source, table)
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "_download", lambda entry: source)
    assert len(datasets.uci_energy().train_inputs) == 588


def test_a_download_with_another_checksum_is_refused(monkeypatch, offline):
    def changed(entry):
        raise ValueError("SHA256 hash of downloaded file does not match the known hash")

    monkeypatch.setattr(datasets, "_download", changed)
    with pytest.raises(ValueError, match="no longer gives the published file"):
        datasets.uci_energy()


def test_pooch_is_asked_for_the_registered_file(monkeypatch):
    asked = {}
    monkeypatch.setattr("pooch.retrieve", lambda url, **options: asked.update(url=url, **options) or "found")
    entry = datasets.registry()["uci_energy"]["files"][0]
    assert datasets._download(entry) == Path("found")
    assert asked["url"] == entry["url"]
    assert asked["known_hash"] == f"sha256:{entry['sha256']}"
    assert (asked["path"].name, asked["fname"]) == ("uci_energy", "data.txt")
    assert isinstance(asked["downloader"], ResumingDownloader)


def test_a_missing_package_is_named(monkeypatch):
    def missing(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(DatasetUnavailable, match="pip install scikit-learn"):
        datasets.digits()


def test_registry_follows_its_schema():
    text = Path(datasets.__file__).with_name("registry.json").read_text(encoding="utf-8")
    assert json.loads(text) == datasets.registry()
    for name, entry in datasets.registry().items():
        assert set(entry) == {"title", "source", "licence", "note", "files"}
        for file in entry["files"]:
            assert set(file) == {"path", "url", "sha256"}
            # The two that are published without encryption; what arrives is checked by its SHA-256.
            assert file["url"].startswith("http://" if name in ("fashion_mnist", "svhn") else "https://")
            assert len(file["sha256"]) == hashlib.sha256().digest_size * 2
