"""Broken, truncated and malicious CIFAR files: each is one sentence, and none gets to do harm."""

import gzip
import os
import pickle
import tarfile
import zlib

import numpy as np
import pytest

from minires.data import cifar10
from minires.data.layouts import FAMILIES
from minires.data.pickles import load_pickle
from minires.errors import DataError
from tests.cifar_files import LOADERS, assert_is, make_files, write_archive, write_folder

pytestmark = pytest.mark.host_only("files and bytes on the host")


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("keep", [0, 1, 3073 + 100, -1])
def test_a_truncated_binary_batch(tmp_path, name, keep):
    layout, files, _ = make_files(name, "binary")
    files[layout.test[0]] = files[layout.test[0]][:keep]
    with pytest.raises(
        DataError, match=rf"{layout.test[0]} is truncated .* records are 307[34] bytes, but its \d+ bytes"
    ):
        LOADERS[name](write_folder(tmp_path / layout.folder, files))


@pytest.mark.parametrize(("name", "column", "value"), [("cifar10", 0, 10), ("cifar100", 0, 20), ("cifar100", 1, 100)])
def test_a_label_out_of_range(tmp_path, name, column, value):
    layout, files, _ = make_files(name, "binary")
    content = bytearray(files[layout.train[0]])
    content[FAMILIES[name].record + column] = value
    files[layout.train[0]] = bytes(content)
    with pytest.raises(
        DataError, match=f"corrupted: record 1 has the label {value}, but labels run from 0 to {value - 1}"
    ):
        LOADERS[name](write_folder(tmp_path / layout.folder, files))


ROWS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ([1, 2], "holds a list, but a CIFAR batch is a dict"),
        ({"data": ROWS}, "has no 'labels' among its keys"),
        ({"labels": [0, 1]}, "has no 'data' among its keys"),
        ({"data": ROWS[:, 1:], "labels": [0, 1]}, r"must be uint8 \(N, 3072\), found uint8 \(2, 3071\)"),
        ({"data": ROWS.astype(np.int64), "labels": [0, 1]}, r"found int64 \(2, 3072\)"),
        ({"data": [[1]], "labels": [0]}, "found list"),
        ({"data": ROWS, "labels": [0]}, "one whole number for each of its 2 pictures"),
        ({"data": ROWS, "labels": [0, 0.5]}, "one whole number for each of its 2 pictures"),
        ({"data": ROWS, "labels": [[0], [1, 2]]}, "one whole number for each of its 2 pictures"),
        ({"data": ROWS[:0], "labels": np.zeros(0, int)}, "at least one"),
        ({"data": ROWS, "labels": [0, 10]}, "record 1 has the label 10"),
        ({"data": ROWS, "labels": [-1, 0]}, "record 0 has the label -1"),
    ],
)
def test_a_python_batch_of_another_shape(tmp_path, batch, sentence):
    layout, files, _ = make_files("cifar10", "python")
    files["test_batch"] = pickle.dumps(batch, protocol=4)
    with pytest.raises(DataError, match=rf"test_batch.*{sentence}"):
        cifar10(write_folder(tmp_path / layout.folder, files))


def test_a_python_batch_cut_anywhere(tmp_path):
    _, files, _ = make_files("cifar10", "python")
    whole = files["test_batch"]
    for keep in [*range(200), *range(200, len(whole), 97)]:
        with pytest.raises(DataError, match="batch is truncated or not a pickle"):
            load_pickle(whole[:keep], "batch")


# a damaged copy beside a good one


def cut_folder(tmp_path):
    """A folder with a damaged copy of CIFAR-10 in the layout that is preferred."""
    layout, files, _ = make_files("cifar10", "binary")
    write_folder(tmp_path / layout.folder, files | {"test_batch.bin": b"short"})
    return tmp_path


def test_a_damaged_copy_names_the_others(tmp_path):
    cut_folder(tmp_path)
    layout, files, expected = make_files("cifar10", "python")
    other = write_folder(tmp_path / layout.folder, files)
    with pytest.raises(DataError, match=r"test_batch\.bin is truncated.* There is also \S+batches-py; give its path"):
        cifar10(tmp_path)
    assert_is(cifar10(other), expected)  # as it was told

    archive = write_archive(tmp_path / layout.archive, layout.folder, files)
    with pytest.raises(DataError, match=r"There is also \S+-py and \S+\.tar\.gz; give the path of one to load that"):
        cifar10(tmp_path)
    assert_is(cifar10(archive), expected)


def test_a_damaged_copy_alone_names_no_other(tmp_path):
    with pytest.raises(DataError, match=r"copy or download it again\.$"):
        cifar10(cut_folder(tmp_path))


def test_a_path_that_leads_to_the_damage_again_is_not_advised(tmp_path):
    folder = cut_folder(tmp_path) / "cifar-10-batches-bin"
    for name, content in make_files("cifar10", "python")[1].items():
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=r"copy or download it again\.$"):
        cifar10(folder)


# archives


@pytest.mark.parametrize("keep", [0, 5, 300, 0.5, -9])
def test_a_damaged_archive(tmp_path, keep):
    layout, files, _ = make_files("cifar10", "binary")
    path = write_archive(tmp_path / layout.archive, layout.folder, files)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(DataError, match=r"cannot be read as a \.tar\.gz .* download it again"):
        cifar10(tmp_path)


@pytest.mark.parametrize("place", [2, 0.3, 0.9, -6])  # the last one hits the checksum only
def test_an_archive_with_a_wrong_byte(tmp_path, place):
    layout, files, _ = make_files("cifar10", "binary")
    path = write_archive(tmp_path / layout.archive, layout.folder, files)
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 0x55
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"cannot be read as a \.tar\.gz"):
        cifar10(path)


def test_an_archive_that_turns_into_nonsense_in_a_batch(tmp_path):
    layout, files, _ = make_files("cifar10", "binary")
    path = write_archive(tmp_path / layout.archive, layout.folder, files)
    squeeze = zlib.compressobj(wbits=31)  # gzip
    begin = squeeze.compress(gzip.decompress(path.read_bytes())[:18000]) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    path.write_bytes(begin + b"\xff" * 99)
    with pytest.raises(DataError, match=r"cannot be read as a \.tar\.gz .*invalid block type"):
        cifar10(path)


def test_a_damaged_archive_may_go(tmp_path):
    """Nonsense after the head of a gzip file: nobody can want to keep it."""
    (tmp_path / "x").write_bytes(gzip.compress(b"")[:10] + b"\xff" * 99)
    with pytest.raises(DataError, match=r"x cannot be read as a \.tar\.gz .*: delete it, and copy or download"):
        cifar10(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [b"plain text", b"?", gzip.compress(b""), gzip.compress(b"letter"), gzip.compress(b"not a tar" * 500)],
    ids=["text", "one byte", "empty gzip", "short gzip", "no tar inside"],
)
@pytest.mark.parametrize("name", ["thesis.txt", "cifar-10-binary.tar.gz"])
def test_a_file_of_another_kind_is_not_to_be_thrown_away(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path / name)
    assert f"{name} is not CIFAR: expected a folder with its files, or one of the official" in str(caught.value)
    assert "`minires data download`" in str(caught.value)
    assert "delete" not in str(caught.value)


def test_an_archive_that_the_system_does_not_give_is_not_blamed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    layout, files, _ = make_files("cifar10", "binary")
    path = write_archive(tmp_path / layout.archive, layout.folder, files)
    monkeypatch.setattr("gzip.open", refuse)
    with pytest.raises(DataError, match=r"binary\.tar\.gz cannot be read: Permission denied\.$"):
        cifar10(path)


HARMFUL = {
    "/etc/passwd": (tarfile.REGTYPE, 0, "leads outside"),
    "a/../../b": (tarfile.REGTYPE, 0, "leads outside"),
    "..\\b": (tarfile.REGTYPE, 0, "leads outside"),
    "c:b": (tarfile.REGTYPE, 0, "leads outside"),
    "symbolic": (tarfile.SYMTYPE, 0, "link or a device"),
    "hard": (tarfile.LNKTYPE, 0, "link or a device"),
    "device": (tarfile.CHRTYPE, 0, "link or a device"),
    "pipe": (tarfile.FIFOTYPE, 0, "link or a device"),
}


@pytest.mark.parametrize("member", HARMFUL)
def test_a_harmful_member_is_refused(tmp_path, member):
    layout, files, _ = make_files("cifar10", "binary")
    harmful = tarfile.TarInfo(member)
    harmful.type, harmful.size, reason = HARMFUL[member]
    harmful.linkname = "/etc/passwd"
    path = write_archive(tmp_path / "x.tar.gz", layout.folder, files, extra=[harmful])
    with pytest.raises(DataError, match=f"x.tar.gz was refused: its member .* {reason}"):
        cifar10(path)


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    layout, files, _ = make_files("cifar10", "binary")
    monkeypatch.setattr("minires.data.archive.LARGEST_MEMBER", 8000)
    with pytest.raises(DataError, match="has 9219 bytes, more than any official file"):
        cifar10(write_archive(tmp_path / "x.tar.gz", layout.folder, files))


def test_reading_an_archive_writes_nothing(tmp_path):
    layout, files, _ = make_files("cifar10", "binary")
    cifar10(write_archive(tmp_path / layout.archive, layout.folder, files))
    assert [path.name for path in tmp_path.rglob("*")] == [layout.archive]


# pickles


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_batch_is_refused_before_it_runs(tmp_path, protocol):
    layout, files, _ = make_files("cifar10", "python")
    proof = tmp_path / "ran"
    files["data_batch_2"] = pickle.dumps({"data": Malicious(os.system, f"touch {proof}")}, protocol)
    with pytest.raises(DataError, match=rf"data_batch_2 asks to run {os.system.__module__}\.system"):
        cifar10(write_folder(tmp_path / layout.folder, files))
    assert not proof.exists()


@pytest.mark.parametrize("function", [eval, getattr, pickle.loads, np.load, np.frombuffer, bytearray, set])
def test_no_other_function_is_admitted(function):
    with pytest.raises(DataError, match="batch asks to run"):
        load_pickle(pickle.dumps(Malicious(function, "1"), 4), "batch")


def test_even_admitted_names_do_only_what_a_batch_needs():
    encoded = b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR."
    with pytest.raises(DataError, match="batch asks for the codec 'zlib'"):
        load_pickle(encoded, "batch")
    with pytest.raises(DataError, match="batch holds an array of 'O8'"):
        load_pickle(pickle.dumps(np.array([None]), 4), "batch")
