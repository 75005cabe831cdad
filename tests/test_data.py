"""Finding, reading and splitting CIFAR-100; the real data where CIFAR100_DIR names them."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cifar100_helpers import data, download
from cifar100_helpers.data import load_cifar100, read_folder, train_validation_split
from cifar100_helpers.download import FILES, OFFICIAL_MD5
from cifar100_helpers.errors import DatasetError, ParameterError
from cifar100_helpers.pickling import batch_opcodes, meta_opcodes
from cifar100_helpers.synthetic import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES, write_synthetic

CLASSES = list(range(100))


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The bytes of three small files in the official format."""
    folder = tmp_path_factory.mktemp("contents")
    write_synthetic(folder, train_size=200, test_size=100)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def put(contents, monkeypatch, tmp_path):
    """Makes the small files the official ones, with an empty cache in `tmp_path / "cache"`.

    Returns a function that writes them, or the changed ones it is given, into a folder.
    """
    for name, content in contents.items():
        monkeypatch.setitem(OFFICIAL_MD5, name, hashlib.md5(content).hexdigest())
    monkeypatch.setattr(download, "cache_folders", lambda: [tmp_path / "cache"])
    monkeypatch.setattr(data, "fetch", lambda: pytest.fail("nothing is to be fetched"))
    monkeypatch.delenv("CIFAR100_DIR", raising=False)

    def put(folder, **changed):
        folder = tmp_path / folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {**contents, **changed}.items():
            if content is not None:
                (folder / name).write_bytes(content)
        return folder

    return put


def batch(data=None, **changed):
    """A file train or test with one image a class, and `changed` in it."""
    content = {
        "filenames": [f"{i}.png" for i in CLASSES],
        "batch_label": "training batch 1 of 1",
        "fine_labels": CLASSES,
        "coarse_labels": COARSE_OF_FINE.tolist(),
        "data": np.zeros((100, 3072), np.uint8) if data is None else data,
    }
    return b"".join(batch_opcodes(**{**content, **changed}))


def test_real_arrays_equal_those_of_keras(real_data, real_data_dir):
    from keras.src.datasets.cifar import load_batch

    folder = download.locate(real_data_dir)
    for split in ("train", "test"):
        for key, labels in (("fine_labels", f"y_{split}"), ("coarse_labels", f"coarse_{split}")):
            planes, expected = load_batch(str(folder / split), label_key=key)
            np.testing.assert_array_equal(getattr(real_data, labels), expected)
        images = getattr(real_data, f"x_{split}")
        assert np.array_equal(images.transpose(0, 3, 1, 2), planes)


def test_real_data_are_balanced_and_in_the_written_hierarchy(real_data):
    assert real_data.x_train.shape == (50_000, 32, 32, 3) and real_data.x_test.shape == (
        10_000,
        32,
        32,
        3,
    )
    assert np.bincount(real_data.y_train).tolist() == [500] * 100
    assert np.bincount(real_data.y_test).tolist() == [100] * 100
    assert real_data.fine_names == FINE_NAMES and real_data.coarse_names == COARSE_NAMES
    np.testing.assert_array_equal(real_data.coarse_of_fine, COARSE_OF_FINE)


def test_arrays_are_contiguous_typed_and_read_only(put):
    loaded = load_cifar100(put("here"))
    assert (loaded.name, loaded.x_train.shape, len(loaded.x_test)) == (
        "cifar100",
        (200, 32, 32, 3),
        100,
    )
    arrays = [value for value in vars(loaded).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 7
    for array in arrays:
        assert array.dtype == (np.uint8 if array.ndim == 4 else np.int64)
        assert array.flags.c_contiguous and not array.flags.writeable
        assert not array.base.flags.writeable
        with pytest.raises(ValueError):
            array[0] = 1
        with pytest.raises(ValueError):
            array.flags.writeable = True
    with pytest.raises(AttributeError):
        loaded.x_train = None
    assert repr(loaded) == "<Cifar100 'cifar100': 200 training and 100 test images>"


def test_pixels_go_from_planes_to_channels(put):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 3072), dtype=np.uint8)
    loaded = read_folder(put("here", train=batch(pixels)), verify=False)
    for image, row, column, channel in (
        (0, 0, 0, 0),
        (63, 31, 0, 1),
        (64, 5, 7, 2),
        (99, 9, 31, 1),
    ):
        expected = pixels[image, channel * 1024 + row * 32 + column]
        assert loaded.x_train[image, row, column, channel] == expected


def test_a_folder_may_be_named_by_itself_or_by_the_one_above(put, monkeypatch, tmp_path):
    folder = put("above/cifar-100-python")
    for name in (folder, str(folder), tmp_path / "above"):
        assert len(load_cifar100(name).y_train) == 200
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_cifar100("~/above").y_train) == 200


@pytest.mark.parametrize("named", ["missing", "partial", 5])
def test_a_named_folder_without_the_data_is_an_error(put, monkeypatch, tmp_path, named):
    put("cache/cifar-100-python")
    put("partial", test=None)
    named = named if named == 5 else tmp_path / named
    with pytest.raises(DatasetError, match=r"^data_dir names .*train, test and meta"):
        load_cifar100(named)
    monkeypatch.setenv("CIFAR100_DIR", str(named))
    with pytest.raises(DatasetError, match=r"^CIFAR100_DIR names .*train, test and meta"):
        load_cifar100()


def test_argument_before_environment_before_cache_before_download(put, monkeypatch):
    read = []
    monkeypatch.setattr(data, "read_folder", read.append)
    monkeypatch.setattr(data, "fetch", lambda: Path("fetched"))
    load_cifar100()
    cached = put("cache/cifar-100-python")
    load_cifar100()
    named = put("named")
    monkeypatch.setenv("CIFAR100_DIR", str(named))
    load_cifar100()
    load_cifar100(put("argument"))
    monkeypatch.setenv("CIFAR100_DIR", "")
    load_cifar100("")
    assert read == [Path("fetched"), cached, named, named.parent / "argument", cached]


DAMAGE = {
    "truncated": lambda c: {"train": c["train"][:-1]},
    "a flipped byte": lambda c: {"test": c["test"][:-9] + b"?" + c["test"][-8:]},
    "swapped": lambda c: {"train": c["test"], "test": c["train"]},
    "empty": lambda c: {"meta": b""},
    "another content": lambda c: {"train": batch()},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_other_bytes_than_the_official_ones_are_refused(put, contents, damage, monkeypatch):
    changed = damage(contents)
    folder = put("here", **changed)
    if len(changed) == 1:
        # Where one file is at fault, none but the good ones may be unpickled.
        monkeypatch.setattr("cifar100_helpers.reading.unpickle", _only(contents.values()))
    with pytest.raises(DatasetError, match=r"not the official file.*MD5.*fetched again") as caught:
        load_cifar100(folder)
    assert str(folder / next(iter(changed))) in str(caught.value)


def _only(known):
    from cifar100_helpers.unpickling import unpickle

    def checked(raw):
        assert raw in known, "unverified bytes were unpickled"
        return unpickle(raw)

    return checked


ONE_MORE = np.zeros((101, 3072), np.uint8)
MALFORMED = {
    "fine label 100": ("train", batch(fine_labels=[*CLASSES[:99], 100])),
    "fine label 300": ("train", batch(fine_labels=[*CLASSES[:99], 300])),
    "coarse label 20": ("test", batch(coarse_labels=[20] * 100)),
    "too few labels": ("train", batch(fine_labels=CLASSES[:99])),
    "too many images": ("train", batch(ONE_MORE)),
    "no images": ("train", batch(ONE_MORE[:0], fine_labels=[], coarse_labels=[])),
    "other images": ("test", batch(np.zeros((100, 3071), np.uint8))),
    "false for a label": ("test", batch().replace(b"K\x00K\x01K\x02", b"\x89K\x01K\x02")),
    "no number for a label": ("test", batch().replace(b"K\x00K\x01K\x02", b"NK\x01K\x02")),
    "CIFAR-10 keys": ("train", batch().replace(b"U\x0bfine_labels", b"U\x0bbest_labels")),
    "images missing": ("train", b"\x80\x02}."),
    "a list": ("test", b"\x80\x02]."),
    "no pickle": ("test", b"<html>not found</html>"),
    "99 names": ("meta", b"".join(meta_opcodes(FINE_NAMES[1:], COARSE_NAMES))),
    "a name twice": ("meta", b"".join(meta_opcodes((*FINE_NAMES[:99], "apple"), COARSE_NAMES))),
    "no names": ("meta", b"".join(meta_opcodes((), ()))),
    "numbers for names": (
        "meta",
        b"\x80\x02}(U\x10fine_label_names](K\1K\2eU\x12coarse_label_names](K\1eu.",
    ),
}


@pytest.mark.parametrize(("name", "content"), MALFORMED.values(), ids=MALFORMED)
def test_files_out_of_format_are_refused(put, name, content):
    folder = put("here", **{name: content})
    with pytest.raises(DatasetError, match=r"is no CIFAR-100 file, .*: replace it\.$") as caught:
        read_folder(folder, verify=False)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"coarse_labels": [7, *COARSE_OF_FINE[1:].tolist()]}, "one class lie in two superclasses"),
        ({"fine_labels": [1, *CLASSES[1:]], "coarse_labels": [0] * 100}, "no image of class 0"),
    ],
)
def test_each_class_lies_in_one_superclass(put, changed, message):
    content = {"train": batch(**changed)}
    if "no image" in message:
        content["test"] = content["train"]
    with pytest.raises(DatasetError, match=message):
        read_folder(put("here", **content), verify=False)


def test_a_missing_or_unreadable_or_huge_file(put, tmp_path):
    with pytest.raises(DatasetError, match=r"test cannot be read \(No such file"):
        read_folder(put("gap", test=None))
    (put("folder", meta=None) / "meta").mkdir()
    with pytest.raises(DatasetError, match="meta cannot be read"):
        read_folder(tmp_path / "folder")
    with open(put("huge") / "train", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DatasetError, match="1,099,511,627,776 bytes"):
        read_folder(tmp_path / "huge")


@contextlib.contextmanager
def without_rights(file):
    """Let nobody read `file` meanwhile, not even root."""
    user = os.geteuid()
    file.chmod(0)
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_the_right_to_read_it(put, name):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder, "here")  # others may not enter the folders of pytest
        shutil.copytree(put("here"), folder)
        folder.parent.chmod(0o755)
        with (
            without_rights(folder / name),
            pytest.raises(DatasetError, match=rf"{name} cannot be read \(Permission denied\)"),
        ):
            load_cifar100(folder)


def to_itself(path):
    path.symlink_to(path.name)


STRANGE = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": to_itself,
    "link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_something_else_than_a_file_is_neither_read_nor_waited_for(put, make):
    folder = put("here", train=None)
    make(folder / "train")
    with pytest.raises(DatasetError, match=r"^data_dir names .*train, test and meta"):
        load_cifar100(folder)
    with pytest.raises(DatasetError, match=r"train cannot be read \(.*\): mend or replace it\.$"):
        read_folder(folder)


@pytest.mark.parametrize("named", ["~nobody-of-this-name/data", "a\0b", "x" * 5_000, b"bytes"])
def test_a_name_that_no_folder_can_have_is_one_sentence(put, named):
    with pytest.raises(DatasetError, match=r"^data_dir names "):
        load_cifar100(named)


@pytest.mark.parametrize("name", ["data \udcff\udcfe", "Dätén · 日本", " "])
def test_folders_may_have_any_name(put, name):
    folder = put(name)
    assert len(load_cifar100(folder).y_train) == 200
    (folder / "meta").unlink()
    with pytest.raises(DatasetError, match=r"^data_dir names "):
        load_cifar100(folder)


LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 50))


def test_split_is_stratified_sorted_disjoint_and_by_seed():
    train, validation = train_validation_split(LABELS, 100, train_limit=200, seed=3)
    assert np.bincount(LABELS[train]).tolist() == [20] * 10
    assert np.bincount(LABELS[validation]).tolist() == [10] * 10
    assert not np.intersect1d(train, validation).size
    assert np.all(np.diff(train) > 0) and np.all(np.diff(validation) > 0)
    again = train_validation_split(LABELS, 100, train_limit=200, seed=3)
    np.testing.assert_array_equal(train, again[0])
    np.testing.assert_array_equal(validation, again[1])
    assert not np.array_equal(validation, train_validation_split(LABELS, 100, seed=4)[1])


@pytest.mark.parametrize(
    ("validation_size", "train_limit", "sizes"),
    [
        (0, 0, (500, 0)),
        (0, 500, (500, 0)),
        (0, 10, (10, 0)),
        (490, 0, (10, 490)),
        (10, 490, (490, 10)),
    ],
)
def test_split_sizes(validation_size, train_limit, sizes):
    train, validation = train_validation_split(LABELS, validation_size, train_limit=train_limit)
    assert (len(train), len(validation)) == sizes
    assert validation.dtype == train.dtype == np.int64
    assert set(LABELS[train]) == set(range(10))


def test_validation_does_not_depend_on_the_training_limit():
    np.testing.assert_array_equal(
        train_validation_split(LABELS, 50)[1], train_validation_split(LABELS, 50, train_limit=90)[1]
    )


@pytest.mark.parametrize("size", [-1, 9, 491, 500, 501, 20.0, 0.1, "20", True, None])
def test_impossible_splits_are_refused(size):
    with pytest.raises(ParameterError, match=r"^validation_size is .*from 10 to 490"):
        train_validation_split(LABELS, size)
    if size != 500:
        with pytest.raises(ParameterError, match=r"^train_limit is .*from 10 to 490"):
            train_validation_split(LABELS, 0, train_limit=size)
