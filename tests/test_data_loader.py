"""The loader: which batches, in which order, from which thread."""

import itertools
import json
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minires.data import CropFlip, DataLoader, Dataset
from minires.errors import ArgumentError

pytestmark = pytest.mark.host_only("batches are prepared on the host")

WAIT = 30  # seconds until a test that hangs fails


def numbered(n=23):
    """Pictures that carry their own index."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), (n, 6, 7, 2)).copy()
    return Dataset(images, np.arange(n), tuple(map(str, range(n))), "numbered")


def noise(images, generator):
    """A transform whose every draw would show a shared or shifted random stream."""
    return images + generator.random(images.shape, dtype=np.float32)


def loader(**changes):
    options = {"batch_size": 5, "shuffle": True, "seed": 7, "transform": noise}
    return DataLoader(numbered(), **(options | changes))


def epochs(loader, count=1):
    return [[(images.tobytes(), labels.tolist()) for images, labels in loader] for _ in range(count)]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("minires-loader")]


@pytest.fixture(params=[0, 1, 2, 9], ids="prefetch={}".format)
def prefetch(request):
    yield request.param
    assert loader_threads() == []


# batches


def test_an_epoch_holds_every_picture_once_with_its_label(prefetch):
    batches = list(loader(prefetch=prefetch, transform=None))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(23))
    for images, labels in batches:
        assert (images.dtype, images.shape[1:], labels.dtype) == (np.uint8, (6, 7, 2), np.int64)
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_without_shuffle_the_order_is_the_data_sets():
    labels = np.concatenate([labels for _, labels in loader(shuffle=False)])
    np.testing.assert_array_equal(labels, np.arange(23))


@pytest.mark.parametrize(("size", "drop_last", "length"), [(5, False, 5), (5, True, 4), (23, True, 1), (40, False, 1)])
def test_len_counts_the_batches(size, drop_last, length):
    batches = loader(batch_size=size, drop_last=drop_last)
    assert len(batches) == length == len(list(batches))


def test_batches_belong_to_the_caller():
    batches = loader(shuffle=False, transform=None)
    for images, labels in batches:
        images[:], labels[:] = 0, 0
    np.testing.assert_array_equal(batches.dataset.images, numbered().images)
    np.testing.assert_array_equal(batches.dataset.labels, numbered().labels)


# randomness


def test_the_data_do_not_depend_on_prefetch(prefetch):
    assert epochs(loader(prefetch=prefetch), 3) == epochs(loader(prefetch=0), 3)


def test_epochs_and_seeds_differ():
    first, second = epochs(loader(), 2)
    (other,) = epochs(loader(seed=8))
    orders = [[labels for _, labels in epoch] for epoch in (first, second, other)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_crops_differ_from_epoch_to_epoch_in_the_same_order():
    first, second = epochs(loader(shuffle=False), 2)
    assert all(a[0] != b[0] for a, b in zip(first, second, strict=True))


def test_no_two_random_streams_coincide():
    """Permutation streams (epoch) and transform streams (epoch, batch), zeros included, are all different."""
    streams = loader()
    keys = [(0, e) for e in range(20)] + [(1, e, b) for e in range(20) for b in range(20)]
    assert len({streams._generator(*key).bytes(16) for key in keys}) == len(keys)


def test_the_transform_of_a_batch_has_its_own_stream():
    draws = []
    record = lambda images, generator: draws.append(generator.bytes(16)) or images
    batches = loader(transform=record, prefetch=0)
    for _ in range(3):
        list(batches)
    assert len(set(draws)) == 3 * len(batches)
    orders = {batches._generator(0, e).bytes(16) for e in range(3)}
    assert not orders & set(draws)


# state


def test_state_counts_what_was_delivered(prefetch):
    batches = loader(prefetch=prefetch)
    positions = [(batches.state_dict()["epoch"], batches.state_dict()["batch"])]
    for _ in batches:
        positions.append((batches.state_dict()["epoch"], batches.state_dict()["batch"]))
    assert positions == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]
    assert batches.epoch == 1


def test_state_is_plain_numbers():
    state = DataLoader(numbered(), np.int64(5), seed=np.uint32(3)).state_dict()
    assert json.loads(json.dumps(state)) == state
    assert {type(value) for value in state.values()} == {int}


@pytest.mark.parametrize("stop", range(8))
def test_a_loaded_state_goes_on_bit_for_bit(stop, prefetch):
    whole = list(itertools.chain(*epochs(loader(prefetch=prefetch), 2)))
    first = loader(prefetch=prefetch)
    stream = itertools.chain(first, first)
    for _ in range(stop):
        next(stream)
    state = first.state_dict()
    del stream

    second = loader(prefetch=2 - min(prefetch, 2))
    second.load_state_dict(state)
    assert second.state_dict() == state
    rest = list(itertools.chain(*epochs(second, 2 - stop // 5)))
    assert rest == whole[stop:]


def test_an_abandoned_epoch_begins_again(prefetch):
    batches = loader(prefetch=prefetch)
    for _ in batches:
        break
    assert batches.state_dict()["batch"] == 1
    assert epochs(batches, 2) == epochs(loader(), 2)


def test_a_glance_after_loading_does_not_lose_the_place():
    batches = loader()
    batches.load_state_dict({**batches.state_dict(), "epoch": 1, "batch": 2})
    next(iter(batches))
    first, second = epochs(batches, 2)
    whole = epochs(loader(), 3)
    assert first == whole[1][2:]
    assert second == whole[2]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 8}, "the state has seed 8, but this loader has 7"),
        ({"batch_size": 4}, "the state has batch_size 4, but this loader has 5"),
        ({"images": 24}, "the state has images 24, but this loader has 23"),
        ({"shuffle": 0}, "the state has shuffle 0, but this loader has 1"),
        ({"drop_last": 1}, "the state has drop_last 1, but this loader has 0"),
        ({"batch": 5}, "at batch 5, but an epoch has 5 batches"),
        ({"batch": -1}, "batch must be a whole number of 0 or more, got -1"),
        ({"epoch": 0.5}, "epoch must be a whole number of 0 or more, got 0.5"),
    ],
)
def test_the_state_of_another_loader_is_refused(change, sentence):
    batches = loader()
    before = batches.state_dict()
    with pytest.raises(ArgumentError, match=sentence):
        batches.load_state_dict(before | change)
    assert batches.state_dict() == before


def test_a_state_that_lacks_something_is_refused():
    with pytest.raises(ArgumentError, match="lacks batch_size, drop_last"):
        loader().load_state_dict({"epoch": 0, "batch": 0, "seed": 7, "images": 23, "shuffle": 1})


# the thread


def test_an_error_keeps_its_traceback(prefetch):
    def breaks_on_the_second_batch(images, generator):
        if 5 in images:
            raise ZeroDivisionError("from the transform")
        return images

    batches = loader(shuffle=False, transform=breaks_on_the_second_batch, prefetch=prefetch)
    stream = iter(batches)
    next(stream)
    with pytest.raises(ZeroDivisionError, match="from the transform") as caught:
        next(stream)
    assert "breaks_on_the_second_batch" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert batches.state_dict()["batch"] == 1
    assert loader_threads() == []


def test_leaving_early_ends_the_thread_at_once():
    batches = loader(prefetch=2)
    for _ in batches:
        assert len(loader_threads()) == 1
        break
    assert loader_threads() == []


def test_an_error_of_the_consumer_ends_the_thread_too():
    def consume():
        for _ in loader(prefetch=2):
            raise KeyError("consumer")

    with pytest.raises(KeyError):
        consume()
    assert loader_threads() == []


def test_an_iterator_that_is_never_used_starts_nothing():
    iter(loader(prefetch=2))
    assert loader_threads() == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_batches_are_prepared_ahead_but_no_further(depth):
    prepared, enough = [], threading.Event()

    def count(images, generator):
        prepared.append(threading.current_thread().name)
        if len(prepared) == 1 + depth:
            enough.set()
        return images

    stream = iter(loader(batch_size=1, transform=count, prefetch=depth))
    next(stream)
    assert enough.wait(WAIT)  # without our asking for any more
    stream.close()
    assert len(prepared) == 1 + depth
    assert threading.current_thread().name not in prepared


def test_leaving_early_drops_the_batches_that_were_not_begun(monkeypatch):
    begun, release = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            release.set()
            super().shutdown(wait=wait)

    def hold_the_second(images, generator):
        begun.append(images)
        if len(begun) == 2:
            assert release.wait(WAIT)
        return images

    monkeypatch.setattr("minires.data.loader.ThreadPoolExecutor", Pool)
    stream = iter(loader(batch_size=1, transform=hold_the_second, prefetch=4))
    next(stream)
    stream.close()
    assert len(begun) <= 2
    assert loader_threads() == []


def test_two_iterators_at_once(prefetch):
    batches = loader(prefetch=prefetch)
    (whole,) = epochs(loader())
    left, right = [], []
    for (a, i), (b, j) in zip(batches, batches, strict=True):
        left.append((a.tobytes(), i.tolist()))
        right.append((b.tobytes(), j.tolist()))
    assert left == right == whole
    assert batches.state_dict()["epoch"] == 1


def test_a_live_iterator_does_not_trouble_the_exit():
    program = (
        "from minires.data import *; d, _ = digits(); keep = iter(DataLoader(d, 8)); next(keep); print(len(d)); "
        "import sys; sys.modules['keep'] = keep"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1437", "")


# arguments


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of 0 or more"),
        ({"seed": None}, "seed must be a whole number"),
        ({"prefetch": -1}, "prefetch must be a whole number of 0 or more"),
        ({"transform": 3}, "transform must be callable or None"),
        ({"batch_size": 24, "drop_last": True}, "batch_size 24 with drop_last leaves no batch of 23 images"),
    ],
)
def test_bad_arguments_are_refused(change, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        loader(**change)


def test_repr_tells_the_settings():
    assert repr(loader(transform=CropFlip())) == (
        "DataLoader(Dataset('numbered': 23 images 6x7x2, 23 classes), batch_size=5, shuffle=True, drop_last=False, "
        "seed=7, transform=CropFlip(padding=4, flip=True), prefetch=2)"
    )
