"""The synthetic stand-in: official format, determinism, learnability, resemblance."""

import hashlib
import pickle

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from cifar100_helpers.download import FILES, OFFICIAL_MD5, locate
from cifar100_helpers.errors import DatasetError, ParameterError
from cifar100_helpers.pickling import batch_opcodes, meta_opcodes
from cifar100_helpers.synthetic import (
    COARSE_NAMES,
    COARSE_OF_FINE,
    FINE_NAMES,
    load_synthetic,
    write_synthetic,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic(folder, train_size=300, test_size=100, seed=5)
    return folder


def digests(folder):
    return [hashlib.md5((folder / name).read_bytes()).hexdigest() for name in FILES]


def test_written_names_are_the_official_ones():
    meta = b"".join(meta_opcodes(FINE_NAMES, COARSE_NAMES))
    assert hashlib.md5(meta).hexdigest() == OFFICIAL_MD5["meta"]
    assert np.bincount(COARSE_OF_FINE).tolist() == [5] * 20


@pytest.mark.parametrize("name", ["train", "test"])
def test_official_content_is_written_byte_for_byte(real_data_dir, name):
    raw = (locate(real_data_dir) / name).read_bytes()
    content = pickle.loads(raw, encoding="latin1")
    digest = hashlib.md5()
    for block in batch_opcodes(**content):
        digest.update(block)
    assert digest.hexdigest() == OFFICIAL_MD5[name]


@pytest.mark.parametrize("split", ["train", "test"])
def test_keras_and_python_read_it(folder, split):
    from keras.src.datasets.cifar import load_batch

    loaded = load_synthetic(train_size=300, test_size=100, seed=5)
    images, labels = load_batch(str(folder / split), label_key="coarse_labels")
    np.testing.assert_array_equal(images.transpose(0, 2, 3, 1), getattr(loaded, f"x_{split}"))
    np.testing.assert_array_equal(labels, getattr(loaded, f"coarse_{split}"))
    content = pickle.loads((folder / split).read_bytes(), encoding="latin1")
    assert content["batch_label"] == f"{split}ing batch 1 of 1"
    assert len(set(content["filenames"])) == len(labels)
    assert content["filenames"][0].startswith(FINE_NAMES[content["fine_labels"][0]])


def test_same_seed_same_bytes(folder, tmp_path):
    write_synthetic(tmp_path / "again", train_size=300, test_size=100, seed=5)
    write_synthetic(tmp_path / "other", train_size=300, test_size=100, seed=6)
    assert digests(tmp_path / "again") == digests(folder)
    assert digests(tmp_path / "other")[:2] != digests(folder)[:2]


def test_loaded_data_are_balanced_named_and_all_different(synthetic):
    assert synthetic.name == "synthetic"
    assert synthetic.x_train.shape == (2_000, 32, 32, 3)
    assert np.bincount(synthetic.y_train).tolist() == [20] * 100
    assert np.bincount(synthetic.y_test).tolist() == [5] * 100
    assert (synthetic.fine_names, synthetic.coarse_names) == (FINE_NAMES, COARSE_NAMES)
    np.testing.assert_array_equal(synthetic.coarse_of_fine, COARSE_OF_FINE)
    np.testing.assert_array_equal(synthetic.coarse_test, COARSE_OF_FINE[synthetic.y_test])
    images = np.concatenate([synthetic.x_train, synthetic.x_test]).reshape(2_500, -1)
    assert len(np.unique(images, axis=0)) == 2_500
    assert np.any(np.diff(synthetic.y_train) < 0), "classes come one after the other"


def test_classes_can_be_learned_but_not_at_a_glance(synthetic):
    def coarse_pixels(images):
        blocks = images.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
        return blocks.reshape(len(images), -1)

    model = NearestCentroid().fit(coarse_pixels(synthetic.x_train), synthetic.y_train)
    predicted = model.predict(coarse_pixels(synthetic.x_test))
    assert 0.2 < np.mean(predicted == synthetic.y_test) < 0.7
    assert np.mean(COARSE_OF_FINE[predicted] == synthetic.coarse_test) > 0.5


def test_classes_of_a_superclass_resemble_each_other(synthetic):
    means = np.stack([synthetic.x_train[synthetic.y_train == c].mean(axis=0) for c in range(100)])
    means = means.reshape(100, -1)
    distances = np.linalg.norm(means[:, None] - means, axis=2)
    same = COARSE_OF_FINE[:, None] == COARSE_OF_FINE
    within = distances[same & ~np.eye(100, dtype=bool)]
    assert 0 < within.mean() < 0.7 * distances[~same].mean()
    assert within.min() > 0.1 * distances[~same].mean(), "two classes look the same"


@pytest.mark.parametrize("size", [0, -100, 50, 150, 300_100, 100.0, "100", True, None])
@pytest.mark.parametrize("parameter", ["train_size", "test_size"])
def test_sizes_that_are_not_balanced_are_refused(tmp_path, parameter, size):
    with pytest.raises(ParameterError, match=f"^{parameter} is .*multiple of 100"):
        write_synthetic(tmp_path, **{parameter: size})
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten_or_half_written(folder, tmp_path, monkeypatch):
    before = digests(folder)
    with pytest.raises(DatasetError, match="holds CIFAR-100 files already: name an empty folder"):
        write_synthetic(folder, train_size=100, test_size=100)
    assert digests(folder) == before

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cifar100_helpers.synthetic.os.replace", full)
    with pytest.raises(DatasetError, match=r"No space left on device.*make room"):
        write_synthetic(tmp_path, train_size=100, test_size=100)
    assert not any(tmp_path.iterdir())
