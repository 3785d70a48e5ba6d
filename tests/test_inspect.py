"""What a network costs, against the numbers of the papers and against counting by hand."""

import numpy as np
import pytest

from minires import functional as F
from minires import models, nn, tensor
from minires.inspect import saved_bytes, summary

pytestmark = pytest.mark.host_only("counts what would be done, which is the same on every device")


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.6), (32, 68.9), (44, 97.2), (56, 125.5), (110, 252.9)])
def test_multiply_adds_of_the_cifar_networks(depth, millions):
    assert round(summary(models.cifar_resnet(depth), (32, 32, 3)).multiply_adds / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("depth", "stride_in", "billions"),
    [(18, "3x3", 1.814), (34, "3x3", 3.664), (50, "3x3", 4.089), (50, "1x1", 3.858)],
)
def test_multiply_adds_of_the_imagenet_networks(depth, stride_in, billions):
    """He et al. count 3.8 billion for 50 layers, with the stride in the first 1x1; later practice gives 4.1."""
    model = models.imagenet_resnet(depth, stride_in=stride_in)
    assert round(summary(model, (224, 224, 3), batch=1).multiply_adds / 1e9, 3) == billions


def test_a_small_network_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(4, 5))
    found = summary(model, (6, 8, 3), batch=3)
    assert [row.kind for row in found.rows] == ["Conv2d", "ReLU", "GlobalAvgPool2d", "Linear"]
    assert [row.output_shape for row in found.rows] == [(6, 8, 4), (6, 8, 4), (4,), (5,)]
    assert [row.parameters for row in found.rows] == [3 * 3 * 3 * 4 + 4, 0, 0, 25]
    assert [row.multiply_adds for row in found.rows] == [48 * 4 * 27, 0, 0, 20]
    assert [row.output_bytes for row in found.rows] == [48 * 16, 48 * 16, 16, 20]
    # the convolution keeps the picture, ReLU its output, the linear layer its input; the weights are not counted
    assert found.saved_bytes == 48 * 3 * 4 + 48 * 16 + 16
    assert "multiply-adds        5,204 for each image" in str(found)


def test_the_model_is_left_as_it_was():
    model = models.cifar_resnet(8, width=2, generator=0).eval()
    before = model.state_dict()
    summary(model, (8, 8, 3))
    after = model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not model.training
    assert not any(module._hooks for module in model.modules())


def test_an_identity_shortcut_takes_no_memory():
    rows = {row.name: row for row in summary(models.cifar_resnet(8), (8, 8, 3)).rows}
    assert rows["stage1.0.shortcut"].output_bytes == 0
    assert rows["stage2.0.shortcut"].output_bytes == 4 * 4 * 32 * 4


def test_saved_bytes_counts_views_once(rng):
    x = tensor(rng.standard_normal((4, 6)), requires_grad=True)
    y = x.exp()
    assert saved_bytes(y) == 4 * 6 * 8
    assert saved_bytes(y * y.reshape(4, 6)) == 4 * 6 * 8
    assert saved_bytes(F.relu(y) + 1.0) == 2 * 4 * 6 * 8
