"""Data sets, augmentation and the loader.  Plain NumPy arrays: nothing here knows about tensors.

>>> from minires.data import DataLoader, Normalise, digits, train_transform
>>> train, test = digits()
>>> mean = Normalise.fit(train).mean
>>> loader = DataLoader(train, batch_size=32, shuffle=True, transform=train_transform(mean, padding=1, flip=False))
>>> images, labels = next(iter(loader))
>>> images.shape, images.dtype, labels.shape
((32, 8, 8, 1), dtype('float32'), (32,))
"""

from .cifar import cifar10, cifar100, default_root
from .dataset import Dataset
from .fetch import download
from .inventory import Found, families_at, info
from .loader import DataLoader
from .synthetic import shapes
from .transforms import Compose, CropFlip, Normalise, Transform, eval_transform, train_transform
from .uci_digits import digits

__all__ = [
    "Compose",
    "CropFlip",
    "DataLoader",
    "Dataset",
    "Found",
    "Normalise",
    "Transform",
    "cifar10",
    "cifar100",
    "default_root",
    "digits",
    "download",
    "eval_transform",
    "families_at",
    "info",
    "shapes",
    "train_transform",
]
