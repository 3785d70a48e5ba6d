"""Batches in an order that can be told in advance, prepared one step ahead of the network."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from ..errors import ArgumentError
from .dataset import Dataset
from .transforms import Transform

Batch = tuple[np.ndarray, np.ndarray]

_PERMUTATION, _TRANSFORM = 0, 1  # the two kinds of random stream, kept apart by the first word of their key


class DataLoader:
    """Go through a data set in batches: each ``for images, labels in loader`` is one epoch.

    Images are (B, H, W, C): what the transform makes of them, or the bytes themselves; labels are (B,) int64.

    Randomness is counted, not consumed: the order of epoch e depends on (seed, e), the crops of its batch b on
    (seed, e, b).  So a batch is the same whatever was drawn before it, however far ahead it was prepared.

    An epoch that is left early begins again with the next ``for``: a glance at ``next(iter(loader))`` changes nothing.
    To go on in the middle instead, load a state.

    Args:
        dataset: the pictures and their labels.
        batch_size: pictures in a batch.  The last batch is shorter where this does not divide the data set.
        shuffle: permute the pictures, anew in each epoch.
        drop_last: leave a last batch that is shorter out.
        seed: of the order and of the transform.
        transform: called with the bytes (B, H, W, C) of a batch and its generator; see `Transform`.
        prefetch: batches prepared ahead in one background thread; 0 prepares each when it is asked for.

    Raises:
        ArgumentError: sizes or seeds make no sense, or no batch is left.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 128,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        transform: Transform | None = None,
        prefetch: int = 2,
    ) -> None:
        self.dataset = dataset
        self.batch_size = _whole("batch_size", batch_size, 1)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.seed = _whole("seed", seed, 0)
        self.transform = transform
        self.prefetch = _whole("prefetch", prefetch, 0)
        if transform is not None and not callable(transform):
            raise ArgumentError(f"DataLoader: transform must be callable or None, got {transform!r}.")
        if len(self) == 0:
            raise ArgumentError(
                f"DataLoader: batch_size {self.batch_size} with drop_last leaves no batch of {len(dataset)} images."
            )
        self._epoch = 0
        self._batch = 0  # how many batches of the epoch were delivered
        self._first = 0  # where the epoch begins: 0, unless a state was loaded

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"drop_last={self.drop_last}, seed={self.seed}, transform={self.transform!r}, prefetch={self.prefetch})"
        )

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0; it advances when the last batch is delivered."""
        return self._epoch

    def __iter__(self) -> Generator[Batch, None, None]:
        return self._run(self._epoch, self._first)

    def _run(self, epoch: int, first: int) -> Generator[Batch, None, None]:
        order = self.order(epoch)
        batches = range(first, len(self))
        prepared = _prepare_ahead(lambda b: self._prepare(order, epoch, b), batches, self.prefetch)
        try:
            for b, batch in zip(batches, prepared, strict=True):
                self._delivered(epoch, b, first)
                yield batch
        finally:
            prepared.close()

    def _delivered(self, epoch: int, b: int, first: int) -> None:
        if b + 1 < len(self):
            self._epoch, self._batch, self._first = epoch, b + 1, first
        else:
            self._epoch, self._batch, self._first = epoch + 1, 0, 0

    def skip(self) -> tuple[int, int, int]:
        """Go on by a batch that somebody else prepares: (epoch, number of the batch in it, pictures in it)."""
        epoch, b = self._epoch, self._batch
        self._delivered(epoch, b, b + 1)
        return epoch, b, min(self.batch_size, len(self.dataset) - b * self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The numbers of the pictures, (N,), in the order in which an epoch goes through them."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return self._generator(_PERMUTATION, epoch).permutation(len(self.dataset))

    def _prepare(self, order: np.ndarray, epoch: int, b: int) -> Batch:
        index = order[b * self.batch_size : (b + 1) * self.batch_size]
        images, labels = self.dataset.images[index], self.dataset.labels[index]
        if self.transform is not None:
            images = self.transform(images, self.generator(epoch, b))
        return images, labels

    def generator(self, epoch: int, batch: int) -> np.random.Generator:
        """What the transform of a batch draws from."""
        return self._generator(_TRANSFORM, epoch, batch)

    def _generator(self, *key: int) -> np.random.Generator:
        # spawn_key, and not more words of entropy: SeedSequence([s, 1]) and SeedSequence([s, 1, 0]) are the same.
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def state_dict(self) -> dict[str, int]:
        """Return where we are, counted in batches that were delivered, in plain whole numbers.

        After the last batch of epoch e this is (e + 1, 0).  The rest is there for `load_state_dict` to compare.
        """
        return {"epoch": self._epoch, "batch": self._batch, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state: the next ``for`` gives the rest of its epoch, bit for bit.

        Raises:
            ArgumentError: it is the state of a loader with another seed, batch size, number of images or shuffling, or
                not a state at all.
        """
        expected = self._identity()
        missing = {"epoch", "batch", *expected} - set(state)
        if missing:
            raise ArgumentError(f"DataLoader: the state lacks {', '.join(sorted(missing))}; is it from state_dict()?")
        for key, value in expected.items():
            if state[key] != value:
                raise ArgumentError(
                    f"DataLoader: the state has {key} {state[key]}, but this loader has {value}, so it cannot go on "
                    "with the same batches; make the loader as it was made then."
                )
        epoch, batch = _whole("epoch", state["epoch"], 0), _whole("batch", state["batch"], 0)
        if batch >= len(self):
            raise ArgumentError(f"DataLoader: the state is at batch {batch}, but an epoch has {len(self)} batches.")
        self._epoch, self._batch, self._first = epoch, batch, batch

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "images": len(self.dataset),
            "shuffle": int(self.shuffle),
            "drop_last": int(self.drop_last),
        }


def _prepare_ahead(prepare: Callable[[int], Batch], batches: range, depth: int) -> Generator[Batch, None, None]:
    """Yield ``prepare(b)`` for each of ``batches``, ``depth`` of them worked on in advance by one thread.

    The thread never waits for us: it gets a new job when a batch is taken, so there is no queue on which it could hang.
    An error in ``prepare`` is raised here with the traceback it had there.  Closing the generator drops the jobs that
    have not begun and waits for the one that has.
    """
    if depth == 0:
        yield from map(prepare, batches)
        return
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="minires-loader")
    try:
        submitted = (pool.submit(prepare, b) for b in batches)
        jobs = deque(islice(submitted, depth))
        while jobs:
            batch = jobs.popleft().result()
            jobs.extend(islice(submitted, 1))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
        raise ArgumentError(f"DataLoader: {name} must be a whole number of {least} or more, got {value!r}.")
    return operator.index(value)
