"""How deep a graph may be, and when its memory is free again."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from minires import Tensor, tensor
from minires import functional as F
from minires.tensor import Node

pytestmark = pytest.mark.host_only("what Python and NumPy hold; the fixture of the device looks for leaks there")


@pytest.mark.parametrize("depth", [5_000, 100_000])
@pytest.mark.parametrize("walked", [True, False])
def test_depth_is_no_limit(depth, walked):
    x = tensor(1.0, requires_grad=True)
    y = x
    for _ in range(depth):
        y = -y
    if walked:
        y.backward()
        assert x.grad == 1
    alive = weakref.ref(y)
    del y  # frees the chain, which must not recurse either
    assert alive() is None


def _network(use):
    """Run a little network with batch norm, pooling, fan-out and views; weak references to everything it made."""
    rng = np.random.default_rng(5)
    picture = Tensor(rng.standard_normal((2, 6, 6, 3)), requires_grad=True)
    w = Tensor(rng.standard_normal((3, 3, 3, 4)), requires_grad=True)
    gamma, beta = (Tensor(np.ones(4), requires_grad=True) for _ in "gb")
    made = [h := F.conv2d(picture, w, padding=1)]
    made += [n := F.batch_norm(h, gamma, beta), r := n.relu(), p := F.max_pool2d(r + h, 2)]
    made += [q := p.reshape(2, -1)[:, 1:] * 2.0, loss := F.cross_entropy(q, np.array([0, 1]))]
    if "hooks" in use:
        h.register_hook(lambda g: None)
        picture.register_hook(lambda g: None)
        r.retain_grad()
    if "backward" in use:
        loss.backward()
    return [weakref.ref(kept) for t in (*made, picture, w) for kept in (t, t.data)]


def _nodes():
    # not isinstance: it asks each object for its class, which wakes the lazy proxies of other libraries
    return sum(type(thing) is Node for thing in gc.get_objects())


@pytest.mark.parametrize("use", ["nothing", "backward", "hooks", "hooks and backward"])
@pytest.mark.usefixtures("without_collector")
def test_a_dropped_graph_is_freed_at_once(use):
    nodes = _nodes()
    assert [reference() for reference in _network(use) if reference() is not None] == []
    assert _nodes() == nodes


def _bytes_of_arrays():
    """What NumPy holds, to the byte; Python's own lists of spare tuples would blur the total."""
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


@pytest.mark.parametrize("use", ["nothing", "backward", "hooks", "hooks and backward"])
@pytest.mark.usefixtures("without_collector")
def test_memory_comes_back_to_the_byte(use):
    _network(use)  # the first time something may be cached
    tracemalloc.start()
    try:
        before = _bytes_of_arrays()
        _network(use)
        assert _bytes_of_arrays() == before
        _, peak = tracemalloc.get_traced_memory()
        assert peak > 2 * 6 * 6 * 4 * 8  # it did measure the arrays
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("without_collector")
def test_backward_lets_go_of_what_it_has_used():
    x = Tensor(np.ones(1000), requires_grad=True)
    y = x.exp().log().sum()
    node, held = y._node, []
    while not isinstance(node, Tensor):
        held += [weakref.ref(a) for a in node.saved_arrays]
        node = node.parents[0]
    del node
    assert any(r() is not None for r in held)
    y.backward()
    assert [r() for r in held if r() is not None] == []  # although y itself is still here
