"""The ResNet of He et al. 2015 for CIFAR (arXiv 1512.03385, section 4.2), from the block to the training loop.

    python resnet_in_one_file.py                                 # ResNet-8 on the 8x8 digits: less than a minute
    python resnet_in_one_file.py --data cifar-10-batches-bin     # ResNet-20 on CIFAR-10: the paper's 64,000 iterations
    python resnet_in_one_file.py --data ... --depth 56 --iterations 6400

Everything that makes it *that* network stands here; convolution, batch norm, SGD and their gradients come from the
engine.  Pictures are (N, H, W, C).  Where the paper leaves a choice open, a comment says what is done.
"""

import argparse
import time

import numpy as np

from minires import Tensor, data, fused, nn, no_grad, optim
from minires import functional as F
from minires.classroom import FAST
from minires.errors import ArgumentError, MiniresError

# -- the network ------------------------------------------------------------------------------------------------------


class ShortcutA(nn.Module):
    """Option A (section 4.1): every stride-th pixel, zeros for the new channels; no parameters.

    The paper does not say where the zeros go.  Here they come after the old channels.
    """

    def __init__(self, in_channels, channels, stride):
        self.new, self.stride = channels - in_channels, stride

    def forward(self, x):
        """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), C + new)."""
        if self.new == 0 and self.stride == 1:
            return x  # eq. 1: y = F(x) + x
        return F.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, self.new)))


class BasicBlock(nn.Module):
    """relu(F(x) + shortcut(x)), F two 3x3 convolutions (figure 2); batch norm after each of them (section 3.4)."""

    def __init__(self, in_channels, channels, stride):
        # no biases: beta of the batch norm does their work
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = ShortcutA(in_channels, channels, stride)

    @fused  # convolution, batch norm, addition and ReLU in one pass over memory; the result is the same
    def forward(self, x):
        """(N, H, W, in_channels) -> (N, H / stride, W / stride, channels)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))  # the second ReLU comes after the addition (section 3.2)


class ResNet(nn.Module):
    """6n + 2 layers (section 4.2): a convolution, three stages of n blocks with two each, a linear classifier.

    The stages have 16, 32 and 64 channels; the first block of the second and the third halves the picture.
    """

    def __init__(self, depth, classes=10, in_channels=3, width=16, seed=0):
        n, rest = divmod(depth - 2, 6)
        if rest or n < 1:
            raise ArgumentError(f"the depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...), got {depth}.")
        self.depth = depth
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        channels = width
        for stage, after in enumerate((width, 2 * width, 4 * width), start=1):
            blocks = []
            for i in range(n):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(BasicBlock(channels, after, stride))
                channels = after
            setattr(self, f"stage{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)
        initialise(self, np.random.default_rng(seed))

    def forward(self, x):
        """Pictures (N, H, W, in_channels) -> logits (N, classes); the softmax is part of the loss."""
        x = F.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(F.global_avg_pool2d(x))


def initialise(model, rng):
    """Normal weights with variance 2 / fan_in (He et al. 2015, "Delving deep", eq. 10); gamma is 1, every bias 0."""
    for parameter in model.parameters():
        if parameter.ndim > 1:  # convolutions (KH, KW, in, out) and the classifier (in, out)
            fan_in = np.prod(parameter.shape[:-1])
            parameter.data[...] = rng.standard_normal(parameter.shape) * np.sqrt(2 / fan_in)


# -- the recipe -------------------------------------------------------------------------------------------------------


def learning_rate(iteration, iterations=64_000, depth=20):
    """0.1, divided by 10 at 32k and at 48k iterations of 64k, and in the same proportion for shorter runs.

    110 layers start with 0.01 until the training error is below 80 %, "about 400 iterations"; here for exactly 400 of
    64k.  Then the rate goes *back* to 0.1; 1202 layers have no such start.
    """
    if depth == 110 and iteration < 400 * iterations // 64_000:
        return 0.01
    if iteration < iterations // 2:
        return 0.1
    return 0.01 if iteration < 3 * iterations // 4 else 0.001


def augment(images, rng, pad=4, flip=True):
    """Pad by zeros, cut out a window of the old size at a random place, mirror every other one (section 4.2)."""
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = rng.integers(0, 2 * pad + 1, (n, 1)) + np.arange(height)  # which rows of the padded picture, for each
    columns = rng.integers(0, 2 * pad + 1, (n, 1)) + np.arange(width)
    if flip:
        mirrored = rng.random(n) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def to_floats(images, mean):
    """Bytes to [0, 1], less the mean picture of the *training* set ("per-pixel mean subtracted"); no division."""
    return images.astype(np.float32) / 255 - mean


def test_error(model, images, labels):
    """Share of pictures whose largest logit is that of another class; single view, running statistics."""
    model.eval()
    with no_grad():
        parts = np.array_split(images, -(-len(images) // 250))
        said = np.concatenate([model(Tensor(part)).numpy().argmax(1) for part in parts])
    model.train()
    return float(np.mean(said != labels))


def train(model, train_set, test_set, iterations, batch=128, seed=0, pad=4, flip=True, log=print):
    """Momentum SGD with weight decay 1e-4 on all parameters; one line for each epoch.  Returns the last test error."""
    rng = np.random.default_rng(seed)
    mean = train_set.images.mean(0, dtype=np.float64).astype(np.float32) / 255
    pictures, labels = to_floats(train_set.images, mean), train_set.labels
    held_out, sgd = (
        to_floats(test_set.images, mean),
        optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4),
    )
    iteration, epoch, started, error = 0, 0, time.perf_counter(), 1.0
    while iteration < iterations:
        order, losses, wrong, seen = rng.permutation(len(pictures)), 0.0, 0, 0
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            sgd.groups[0]["lr"] = learning_rate(iteration, iterations, model.depth)
            logits = model(Tensor(augment(pictures[chosen], rng, pad, flip)))
            loss = F.cross_entropy(logits, labels[chosen])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses, seen = losses + loss.item() * len(chosen), seen + len(chosen)
            wrong += int((logits.numpy().argmax(1) != labels[chosen]).sum())
            iteration += 1
            if iteration == iterations:
                break
        epoch, error = epoch + 1, test_error(model, held_out, test_set.labels)
        log(
            f"epoch {epoch:3d}  iteration {iteration:6,d}  lr {sgd.groups[0]['lr']:<5g}  loss {losses / seen:.3f}  "
            f"training error {wrong / seen:6.2%}  test error {error:6.2%}  {time.perf_counter() - started:.0f} s"
        )
    return error


# -- and now run it ---------------------------------------------------------------------------------------------------

# option A has no parameters, so these are also the numbers of the plain networks; table 6 has them in millions, rounded
PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def count(model):
    """How many numbers the model learns."""
    return sum(p.size for p in model.parameters())


def check_counts():
    """Assert that these are the networks of the paper, and as large as the engine's own."""
    from minires import models  # for comparison only

    for depth, number in PARAMETERS.items():
        if depth < 100 or not FAST:
            assert count(ResNet(depth)) == number == count(models.cifar_resnet(depth)), depth


def main(arguments=None):
    """Train a network as the command line says; returns its error on the test set."""
    parser = argparse.ArgumentParser(description="Train the ResNet of He et al. 2015, section 4.2.")
    parser.add_argument("--data", metavar="PATH", help="CIFAR-10, a folder or an archive; without it the 8x8 digits")
    parser.add_argument("--depth", type=int, help="6n + 2 layers (20; 8 for the digits)")
    parser.add_argument("--iterations", type=int, help="steps in all (64,000; 500 for the digits)")
    parser.add_argument("--batch", type=int, default=128, help="pictures in a step (128)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (0)")
    parser.add_argument("--save", metavar="FILE.npz", help="write the weights there when done")
    chosen = parser.parse_args(arguments)

    check_counts()
    if chosen.data:
        (train_set, test_set), depth, iterations, pad, flip = data.cifar10(chosen.data), 20, 64_000, 4, True
    else:  # a digit's mirror image is none, and 4 pixels would be half of it
        (train_set, test_set), depth, iterations, pad, flip = data.digits(), 8, 60 if FAST else 500, 1, False
    depth, iterations = chosen.depth or depth, chosen.iterations or iterations
    classes, channels = len(train_set.classes), train_set.image_shape[2]
    model = ResNet(depth, classes, channels, seed=chosen.seed)
    print(f"ResNet-{depth}, {count(model):,} parameters, {len(train_set):,} pictures, {iterations:,} iterations")
    error = train(model, train_set, test_set, iterations, chosen.batch, chosen.seed, pad, flip)
    if chosen.save:
        np.savez(chosen.save, **model.state_dict())
    return error


if __name__ == "__main__":
    try:
        main()
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from None
