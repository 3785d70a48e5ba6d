"""CIFAR in every official layout, from every place where it may lie."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from minires.data import cifar10, cifar100, families_at, info
from minires.data.layouts import FAMILIES
from minires.errors import DataError
from tests.cifar_files import LOADERS, PLACES, assert_is, make_files, write_archive, write_folder

pytestmark = pytest.mark.host_only("files and bytes on the host")

every_layout = pytest.mark.parametrize("version", ["binary", "python"])
every_set = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch, tmp_path):
    """No data set of the machine's owner may help."""
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# what works


@every_set
@every_layout
@pytest.mark.parametrize("place", PLACES)
def test_every_layout_loads_from_every_place(tmp_path, name, version, place):
    layout, files, expected = make_files(name, version)
    root = PLACES[place](tmp_path, layout, files)
    assert_is(LOADERS[name](root), expected)
    assert_is(LOADERS[name](str(root)), expected)


def test_classes_have_their_official_names():
    assert FAMILIES["cifar10"].classes[3] == "cat"
    fine = FAMILIES["cifar100"].classes
    assert len(set(fine)) == 100
    assert list(fine) == sorted(fine)
    assert (fine[0], fine[49], fine[99]) == ("apple", "mountain", "worm")


@pytest.mark.parametrize("variable", ["MINIRES_DATA", "XDG_CACHE_HOME", "HOME"])
def test_without_a_root_the_environment_decides(tmp_path, monkeypatch, variable):
    layout, files, expected = make_files("cifar10", "binary")
    beneath = {"MINIRES_DATA": "", "XDG_CACHE_HOME": "minires", "HOME": ".cache/minires"}[variable]
    write_folder(tmp_path / "here" / beneath / layout.folder, files)
    monkeypatch.delenv("XDG_CACHE_HOME")
    if variable == "HOME":
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "here")
    else:
        monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert_is(cifar10(), expected)


def test_a_folder_is_preferred_to_an_archive_and_binary_to_python(tmp_path):
    for seed, (version, archived) in enumerate(
        [("python", True), ("binary", True), ("python", False), ("binary", False)]
    ):
        layout, files, expected = make_files("cifar10", version, seed)
        if archived:
            write_archive(tmp_path / layout.archive, layout.folder, files)
        else:
            write_folder(tmp_path / layout.folder, files)
        assert_is(cifar10(tmp_path), expected)  # each beats those before it


def test_both_sets_may_share_a_root(tmp_path):
    for name in LOADERS:
        layout, files, _ = make_files(name, "binary")
        write_folder(tmp_path / layout.folder, files)
    for name, load in LOADERS.items():
        assert_is(load(tmp_path), make_files(name, "binary")[2])


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("encode", [str.encode, str])
def test_batches_written_by_python_3_load_too(tmp_path, protocol, encode):
    layout, files, expected = make_files("cifar10", "python")
    for file, content in files.items():
        batch = pickle.loads(content, encoding="bytes")
        plain = {"data": batch[b"data"], "labels": np.array(batch[b"labels"]), "batch_label": b""[:0] or b"x"}
        files[file] = pickle.dumps({encode(key): value for key, value in plain.items()}, protocol)
    assert_is(cifar10(write_folder(tmp_path / layout.folder, files)), expected)


# what is missing


def test_nothing_found_tells_the_three_ways(tmp_path):
    for root, found in ((tmp_path, "holds nothing"), (tmp_path / "no", "no does not exist"), (None, "does not exist")):
        with pytest.raises(DataError) as caught:
            cifar10(root)
        for words in (
            found,
            "cifar-10-batches-bin/",
            "`minires data download cifar10`",
            "MINIRES_DATA=",
            "--data PATH",
        ):
            assert words in str(caught.value)


def test_a_folder_of_something_else_is_listed(tmp_path):
    write_folder(tmp_path / "d", {f"{i}.txt": b"" for i in range(7)})
    with pytest.raises(DataError, match=r"holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"):
        cifar100(tmp_path / "d")


@every_set
@every_layout
@pytest.mark.parametrize("archived", [False, True])
def test_a_missing_batch_is_named(tmp_path, name, version, archived):
    layout, files, _ = make_files(name, version)
    missing = layout.files[-1]
    del files[missing]
    place = PLACES["the archive" if archived else "its parent"]
    with pytest.raises(DataError, match=rf"lacks {missing}: .* or run `minires data download {name}`"):
        LOADERS[name](place(tmp_path, layout, files))


def test_the_other_data_sets_archive_is_refused(tmp_path):
    layout, files, _ = make_files("cifar100", "binary")
    path = write_archive(tmp_path / "x.tar.gz", layout.folder, files)
    with pytest.raises(DataError, match=r"x\.tar\.gz holds no CIFAR-10: expected cifar-10-batches-bin/ or"):
        cifar10(path)


# info


def test_info_lists_every_copy(tmp_path):
    for version in ("binary", "python"):
        layout, files, _ = make_files("cifar10", version)
        write_folder(tmp_path / layout.folder, files)
        write_archive(tmp_path / layout.archive, layout.folder, files)
    digits, *copies = info(tmp_path)
    assert (digits.name, digits.train, digits.test, digits.verified) == ("digits", 1437, 360, False)
    assert digits.path.is_file()
    assert [(found.name, found.layout) for found in copies] == [
        ("cifar10", layout) for layout in ("binary", "python", "binary.tar.gz", "python.tar.gz")
    ]
    for found in copies:
        assert (found.train, found.test, found.verified, found.problem) == (15, 2, False, None)
        assert found.path.exists()


def test_info_trusts_only_the_official_sum(tmp_path, monkeypatch):
    layout, files, _ = make_files("cifar100", "binary")
    path = write_archive(tmp_path / layout.archive, layout.folder, files)
    monkeypatch.setattr("minires.data.inventory.md5_of", lambda path: layout.md5)
    found = info(path)[-1]
    assert (found.verified, found.train, found.test) == (True, 50_000, 10_000)


@pytest.mark.parametrize("damage", ["cut", "missing", "archive", "not CIFAR"])
def test_info_reports_a_broken_copy_and_goes_on(tmp_path, damage):
    layout, files, _ = make_files("cifar10", "binary")
    if damage == "cut":
        files["test_batch.bin"] = files["test_batch.bin"][:-1]
    if damage == "missing":
        del files["test_batch.bin"]
    root = tmp_path / "d"
    write_folder(root / layout.folder, files)
    if damage in ("archive", "not CIFAR"):
        root = root / layout.archive
        root.write_bytes(b"?")
    if damage == "archive":
        root = root.parent
    broken = info(root)[-1]
    assert (broken.train, broken.test, broken.verified) == (None, None, False)
    words = {"cut": "is truncated", "missing": "lacks test_batch.bin"}.get(damage, "is not CIFAR")
    assert words in broken.problem


def test_info_where_there_is_nothing(tmp_path):
    assert [found.name for found in info(tmp_path / "nowhere")] == ["digits"]


@pytest.mark.parametrize("content", [b"letter", gzip.compress(b"letter")], ids=["plain", "gzip"])
def test_info_on_a_file_of_another_kind(tmp_path, content):
    (tmp_path / "letter.txt").write_bytes(content)
    unknown = info(tmp_path / "letter.txt")[-1]
    assert (unknown.name, unknown.train, unknown.verified) == ("unknown", None, False)
    assert "letter.txt is not CIFAR" in unknown.problem


# families_at


@every_set
@every_layout
@pytest.mark.parametrize("place", PLACES)
def test_the_family_at_a_place(tmp_path, name, version, place):
    layout, files, _ = make_files(name, version)
    root = PLACES[place](tmp_path, layout, files)
    assert families_at(root) == families_at(str(root)) == [name]


@pytest.mark.parametrize("archived", [False, True])
def test_both_families_at_one_place(tmp_path, monkeypatch, archived):
    for name in ("cifar100", "cifar10"):
        layout, files, _ = make_files(name, "python")
        if archived:
            write_archive(tmp_path / layout.archive, layout.folder, files)
        else:
            write_folder(tmp_path / layout.folder, files)
    assert families_at(tmp_path) == ["cifar10", "cifar100"]
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path))
    assert families_at() == ["cifar10", "cifar100"]


@pytest.mark.parametrize("place", ["nowhere", "empty", "letter.txt", "letter.gz", "other.tar.gz", "damaged.tar.gz"])
def test_no_family_is_an_empty_list_and_the_loader_has_the_sentence(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "letter.txt").write_bytes(b"letter")
    (tmp_path / "letter.gz").write_bytes(gzip.compress(b"letter"))
    whole = write_archive(tmp_path / "other.tar.gz", "letters", {"data_batch_1": bytes(99)}).read_bytes()
    (tmp_path / "damaged.tar.gz").write_bytes(whole[:30])
    assert families_at(tmp_path / place) == []
    with pytest.raises(DataError, match=place):
        cifar10(tmp_path / place)


def test_the_family_of_a_damaged_copy_is_still_told(tmp_path):
    layout, files, _ = make_files("cifar100", "python")
    (tmp_path / layout.archive).write_bytes(b"")
    assert families_at(tmp_path / layout.archive) == families_at(tmp_path) == ["cifar100"]
    renamed = write_archive(tmp_path / "renamed.tgz", layout.folder, files)
    renamed.write_bytes(renamed.read_bytes()[:-3000])
    assert families_at(renamed) == ["cifar100"]


def test_the_family_is_told_without_reading_or_counting(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("families_at reads too much")

    layout, files, _ = make_files("cifar10", "binary")
    write_folder(tmp_path / "a" / layout.folder, files)
    official = write_archive(tmp_path / "b" / layout.archive, layout.folder, files)
    renamed = write_archive(tmp_path / "renamed.tgz", layout.folder, files)
    for name in ("inventory.md5_of", "inventory.decode", "cifar.decode", "cifar.tar_members"):
        monkeypatch.setattr(f"minires.data.{name}", never)
    monkeypatch.setattr("tarfile.TarFile.extractfile", never)
    assert families_at(renamed) == ["cifar10"]
    monkeypatch.setattr("gzip.open", never)
    for root in (tmp_path / "a", official, official.parent):
        assert families_at(root) == ["cifar10"]
