"""The recorded graph as data and as a picture."""

import gc
import weakref

import numpy as np
import pytest

import minires
from minires import Tensor, inspect, models
from minires import functional as F
from minires.errors import ArgumentError, GraphError
from minires.inspect import layout

ONLY_DRAWING = pytest.mark.host_only("places boxes, whatever device the tensors are on")


def leaf(rng, *shape):
    return Tensor(rng.standard_normal(shape), requires_grad=True)


def arrows(drawing):
    """(input, its user) by name, with repetitions."""
    return sorted((drawing.nodes[e.source].name, drawing.nodes[e.target].name) for e in drawing.edges)


def block(rng, shortcut="A", channels=4):
    """A residual block that halves the picture, its operations one by one, and its input."""
    net = models.cifar_resnet(8, shortcut=shortcut, width=channels // 2, generator=0)
    x = leaf(rng, 2, 6, 4, channels // 2).astype("float32").detach().requires_grad_()
    with minires.no_fusion():
        return net.stage2[0](x), x, net.stage2[0]


def test_x_times_x_plus_x(rng):
    x = leaf(rng, 3, 5)
    drawing = inspect.draw_graph(x * x + x, {"x": x})
    assert [(n.name, n.kind, n.shape, n.layer) for n in drawing.nodes] == [
        ("x", "leaf", (3, 5), 0),
        ("Multiply", "operation", (3, 5), 1),
        ("Add", "operation", (3, 5), 2),
    ]
    assert arrows(drawing) == [("Multiply", "Add"), ("x", "Add"), ("x", "Multiply"), ("x", "Multiply")]
    assert sorted((e.target, e.input) for e in drawing.edges) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_only_what_was_recorded_is_there(rng):
    x, constant = leaf(rng, 3), Tensor(rng.standard_normal(3))
    drawing = inspect.draw_graph((2 * x + constant).sum(), {"constant": constant})
    assert [n.name for n in drawing.nodes] == ["leaf", "Multiply", "Add", "Sum"]
    assert drawing.nodes[-1].shape == ()


def test_a_leaf_alone(rng):
    drawing = inspect.draw_graph(leaf(rng, 7))
    assert [(n.name, n.layer) for n in drawing.nodes] == [("leaf", 0)]
    assert drawing.edges == ()


def test_names_of_tensors_modules_and_results(rng):
    y, x, b = block(rng)
    h = y * y
    named = inspect.draw_graph(h + x.sum(), {"x": x, "block": b, "h": h})
    names = [n.name for n in named.nodes]
    assert "x" in names
    assert "block.conv1.weight" in names
    assert "h = Multiply" in names
    assert "leaf" not in names
    alone = inspect.draw_graph(y, b)
    assert {"conv1.weight", "bn2.gamma", "leaf"} <= {n.name for n in alone.nodes}


def test_a_residual_block_one_by_one_and_fused(rng):
    y, x, b = block(rng)
    plain = inspect.draw_graph(y, {"x": x})
    operations = [n.name for n in plain.nodes if n.kind == "operation"]
    assert sorted(operations) == sorted(
        ["Conv2d", "BatchNorm", "ReLU", "Conv2d", "BatchNorm", "SubsamplePad", "Add", "ReLU"]
    )
    assert ("x", "SubsamplePad") in arrows(plain)
    assert ("SubsamplePad", "Add") in arrows(plain)
    fused = [n.name for n in inspect.draw_graph(b(x)).nodes if n.kind == "operation"]
    assert sorted(fused) == ["ConvBatchNorm", "ConvBatchNorm", "SubsamplePad"]


def test_the_graph_is_left_as_it_was_and_let_go(rng, without_collector):
    x = leaf(rng, 3)
    y = (x * x + x).sum()
    drawing = inspect.draw_graph(y, {"x": x})
    drawing.plot()
    y.backward(retain_graph=True)
    np.testing.assert_allclose(x.grad, 2 * x.data + 1)
    node, tensor = y._node, weakref.ref(x)
    references = len(gc.get_referrers(node))
    again = inspect.draw_graph(y)
    assert len(gc.get_referrers(node)) == references
    del x, y, node
    assert tensor() is None
    assert drawing.nodes[0].name == "x"
    assert again.nodes[0].name == "leaf"


def test_a_released_graph_gives_the_engine_s_own_sentence(rng):
    y = leaf(rng, 3).exp().sum()
    y.backward()
    with pytest.raises(GraphError) as released:
        y.backward()
    with pytest.raises(GraphError) as drawn:
        inspect.draw_graph(y)
    assert str(drawn.value) == str(released.value)


def test_what_was_not_recorded(rng):
    with pytest.raises(GraphError, match="draw_graph: this tensor was not recorded"):
        inspect.draw_graph(Tensor(rng.standard_normal(3)))
    with minires.no_grad(), pytest.raises(GraphError, match="not recorded"):
        inspect.draw_graph(leaf(rng, 3) + 1)


def test_too_many_nodes_are_told_in_one_sentence(rng):
    y = leaf(rng, 2)
    for _ in range(5000):
        y = y + 1
    with pytest.raises(ArgumentError, match=r"draw_graph: 5001 nodes are too many to read; at most 200.*one block"):
        inspect.draw_graph(y)


def test_a_name_for_something_else():
    x = minires.tensor([1.0], requires_grad=True)
    with pytest.raises(ArgumentError, match="'x' names a ndarray; give a Tensor or a Module"):
        inspect.draw_graph(x + 1, {"x": x.data})


@ONLY_DRAWING
def test_boxes_stand_apart_and_arrows_run_to_the_right(rng):
    for shortcut in "AB":
        y, x, b = block(rng, shortcut)
        drawing = inspect.draw_graph(y, {"x": x, "block": b})
        for i, n in enumerate(drawing.nodes):
            for m in drawing.nodes[:i]:
                across = abs(n.position[0] - m.position[0]) >= (n.width + m.width) / 2
                assert across or abs(n.position[1] - m.position[1]) > 0.5
        for e in drawing.edges:
            source, target = drawing.nodes[e.source], drawing.nodes[e.target]
            assert source.layer < target.layer
            assert len(e.path) == 2 * (target.layer - source.layer - 1)
            way = [source.position[0] + source.width / 2, *(p[0] for p in e.path),
                   target.position[0] - target.width / 2]  # fmt: skip
            assert way == sorted(way)
            for px, py in e.path:  # not through a box on its way
                inside = [n for n in drawing.nodes if abs(n.position[0] - px) < n.width / 2]
                assert all(abs(n.position[1] - py) > 0.3 for n in inside)


@ONLY_DRAWING
def test_leaves_stand_directly_before_their_first_use(rng):
    x, late = leaf(rng, 3), leaf(rng, 3)
    drawing = inspect.draw_graph(x.exp().tanh().sigmoid() * late, {"x": x, "late": late})
    assert {n.name: n.layer for n in drawing.nodes} == {
        "x": 0, "Exp": 1, "Tanh": 2, "Sigmoid": 3, "late": 3, "Multiply": 4,
    }  # fmt: skip


@ONLY_DRAWING
def test_crossings_are_counted_and_taken_out():
    rows, where = [[0, 1, 2], [3, 4, 5]], [0, 0, 0, 1, 1, 1]
    links = [(0, 5), (1, 4), (2, 3)]
    assert layout.crossings(rows, links, where) == 3
    assert layout.crossings(layout.untangle(rows, links, where), links, where) == 0
    assert layout.crossings(rows, [(0, 3), (0, 4), (1, 4)], where) == 0


@ONLY_DRAWING
def test_ascending_is_the_nearest_ascending_sequence(rng):
    values, weights = rng.standard_normal(7), rng.uniform(1, 2, 7)
    found = layout.ascending(values, weights)
    assert (np.diff(found) >= 0).all()
    distance = (weights * (found - values) ** 2).sum()
    for _ in range(300):
        other = np.sort(found + 0.1 * rng.standard_normal(7))
        assert (weights * (other - values) ** 2).sum() >= distance
    np.testing.assert_allclose(layout.ascending(np.array([3.0, 1.0, 2.0]), np.array([1.0, 3.0, 1.0])), [1.5, 1.5, 2])


@ONLY_DRAWING
def test_the_picture(rng, tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    x = leaf(rng, 3)
    drawing = inspect.draw_graph(F.relu(x * x + x), {"x": x})
    figure = drawing.plot()
    figure.savefig(tmp_path / "graph.png")
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.texts] == ["x", "(3,)", "Multiply", "(3,)", "Add", "(3,)", "ReLU", "(3,)"]
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    assert len(boxes) == len(drawing.nodes)
    assert len({p.get_facecolor() for p in boxes}) == 2
    ends = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert len(ends) == len(drawing.edges)
    tips = {max(map(tuple, p.get_path().vertices)) for p in ends}
    assert len(tips) == len(ends), "two arrows end in the same point"
    renderer = FigureCanvasAgg(figure).get_renderer()
    for i, box in enumerate(boxes):  # every name and every shape inside its box
        outer = box.get_window_extent(renderer)
        for text in ax.texts[2 * i : 2 * i + 2]:
            inner = text.get_window_extent(renderer)
            assert outer.x0 <= inner.x0
            assert inner.x1 <= outer.x1

    given = Figure(figsize=(4, 2)).subplots()
    assert drawing.plot(given) is given.figure
    assert len(given.patches) == len(ax.patches)
