"""The 1,797 handwritten digits that travel with the package: real data, no download.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi:10.24432/C50P49, CC BY 4.0.  README.md beside this file says what was changed, and that there is no warranty.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset import Dataset

DIGITS_FILE = Path(__file__).with_name("digits.npz")


def digits() -> tuple[Dataset, Dataset]:
    """Load the 8x8 digits: 1,437 to train on and 360 to test on, each class in the same proportion in both.

    Images are (N, 8, 8, 1).  The source counts ink from 0 to 16; here 16 becomes 255 and each count v becomes
    255 * v / 16, rounded, so that every `Dataset` of minires runs from 0 to 255.  The split is stored in the file.

    Returns:
        the training set and the test set.
    """
    with np.load(DIGITS_FILE, allow_pickle=False) as file:
        counts, labels, test_index = file["images"], file["labels"], file["test"]
    ink = (counts.astype(np.uint16) * 255 + 8) // 16  # + 8 rounds to the nearest
    everything = Dataset(ink.astype(np.uint8)[..., np.newaxis], labels, tuple("0123456789"))
    is_test = np.zeros(len(everything), dtype=bool)
    is_test[test_index] = True
    return everything.subset(~is_test).renamed("digits train"), everything.subset(is_test).renamed("digits test")
