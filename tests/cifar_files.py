"""CIFAR files for the tests, in every official layout, a few records each."""

import io
import pickle
import struct
import tarfile
from typing import ClassVar

import numpy as np

from minires.data import cifar10, cifar100
from minires.data.layouts import FAMILIES

LOADERS = {"cifar10": cifar10, "cifar100": cifar100}
COUNTS = {"train": 3, "test": 2}  # records in each batch file


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did: bytes and str alike as short strings, NumPy under its old name."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        short = len(obj) < 256
        self.write((pickle.SHORT_BINSTRING + bytes([len(obj)])) if short else (b"T" + struct.pack("<i", len(obj))))
        self.write(obj)
        self.memoize(obj)

    def save_str(self, obj):
        self.save_bytes(obj.encode("ascii"))

    def save_global(self, obj, name=None):
        module = "numpy.core.multiarray" if obj.__name__ == "_reconstruct" else obj.__module__
        self.write(f"c{module}\n{obj.__name__}\n".encode("ascii"))
        self.memoize(obj)

    dispatch[bytes], dispatch[str] = save_bytes, save_str
    dispatch[type], dispatch[type(len)], dispatch[type(lambda: 0)] = save_global, save_global, save_global


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def make_files(name, version, seed=0):
    """Return {file name: content} and the expected (images, labels) of the training and the test set."""
    family = FAMILIES[name]
    layout = next(layout for layout in family.layouts if layout.version == version)
    rng = np.random.default_rng(seed)
    files, expected = {}, {}
    for part, names in (("train", layout.train), ("test", layout.test)):
        pictures, classes = [], []
        for file in names:
            images = rng.integers(0, 256, (COUNTS[part], 32, 32, 3), dtype=np.uint8)
            labels = rng.integers(0, len(family.classes), COUNTS[part])
            rows = [b"".join(image[:, :, channel].tobytes() for channel in range(3)) for image in images]
            if version == "binary":
                coarse = b"" if name == "cifar10" else b"\x13"
                files[file] = b"".join(coarse + bytes([y]) + row for y, row in zip(labels, rows, strict=True))
            else:
                data = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 3072)
                batch = {
                    b"data": data,
                    family.label_key.encode(): labels.tolist(),
                    b"filenames": [b"a.png"] * len(data),
                }
                files[file] = python2_pickle(batch | {b"coarse_labels": [3] * len(data), b"batch_label": b"x"})
            pictures.append(images)
            classes.append(labels)
        expected[part] = np.concatenate(pictures), np.concatenate(classes)
    return layout, files, expected


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path, folder, files, extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        for member in (directory, *extra):
            tar.addfile(member, io.BytesIO(b"x" * member.size))
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def assert_is(datasets, expected):
    for dataset, part in zip(datasets, ("train", "test"), strict=True):
        np.testing.assert_array_equal(dataset.images, expected[part][0])
        np.testing.assert_array_equal(dataset.labels, expected[part][1])
        assert dataset.name.endswith(part)


PLACES = {
    "the folder itself": lambda tmp, layout, files: write_folder(tmp / "renamed", files),
    "its parent": lambda tmp, layout, files: write_folder(tmp / "d" / layout.folder, files).parent,
    "the archive": lambda tmp, layout, files: write_archive(tmp / "renamed.tgz", layout.folder, files),
    "a folder with it": lambda tmp, layout, files: (
        write_archive(tmp / "d" / layout.archive, layout.folder, files).parent
    ),
}
