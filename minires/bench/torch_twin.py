"""The same residual networks in plain PyTorch, and weights and gradients carried between the two.

The twins are written from the paper, not from minires; only the attribute names agree, so that a tensor has the same
name on both sides.  minires keeps pictures as NHWC, filters as HWIO and linear weights as (in, out), PyTorch as NCHW,
OIHW and (out, in).  This module needs PyTorch; the tests and the benchmarks import it.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class ZeroPad(nn.Module):
    """Shortcut A: every stride-th pixel, zero channels appended."""

    def __init__(self, extra, stride):
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class Projection(nn.Module):
    """Shortcut B or C: a 1x1 convolution and batch norm."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x):
        return self.bn(self.conv(x))


def shortcut_for(option, channels, out, stride):
    """The shortcut of option A, B or C, or None for the plain network."""
    same = stride == 1 and channels == out
    if option is None:
        return None
    if option == "C" or (option == "B" and not same):
        return Projection(channels, out, stride)
    return nn.Identity() if same else ZeroPad(out - channels, stride)


class BasicBlock(nn.Module):
    """Figure 2 of the paper."""

    expansion = 1

    def __init__(self, channels, width, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut_for(option, channels, width, stride)

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out if self.shortcut is None else out + self.shortcut(x)).relu()


class Bottleneck(nn.Module):
    """Figure 5 of the paper; ``stride_in`` names the convolution that has the stride."""

    expansion = 4

    def __init__(self, channels, width, stride, option, stride_in="3x3"):
        super().__init__()
        in_first = stride_in == "1x1"
        self.conv1 = nn.Conv2d(channels, width, 1, stride if in_first else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1 if in_first else stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut_for(option, channels, 4 * width, stride)

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out))
        return (out if self.shortcut is None else out + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """Stem, stages, global average pool, linear classifier; option None for the plain network."""

    def __init__(self, block, blocks, widths, classes, in_channels, stem, option, **options):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, widths[0], *stem, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, 1) if stem[1] == 2 else nn.Identity()
        channels, self.stages = widths[0], len(blocks)
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            stack = nn.Sequential()
            for stride in strides:
                stack.append(block(channels, width, stride, option, **options))
                channels = block.expansion * width
            setattr(self, f"stage{i + 1}", stack)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.pool(self.bn(self.conv(x)).relu())
        for i in range(self.stages):
            x = getattr(self, f"stage{i + 1}")(x)
        return self.fc(x.mean((2, 3)))


def cifar_twin(depth, shortcut="A", residual=True, classes=10, width=16, in_channels=3):
    """The twin of `minires.models.cifar_resnet` with the same arguments."""
    n = (depth - 2) // 6
    widths = (width, 2 * width, 4 * width)
    return ResNet(BasicBlock, (n, n, n), widths, classes, in_channels, (3, 1, 1), shortcut if residual else None)


def imagenet_twin(depth, shortcut="B", residual=True, classes=1000, in_channels=3, stride_in="3x3"):
    """The twin of `minires.models.imagenet_resnet` with the same arguments."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    block, options = (BasicBlock, {}) if depth < 50 else (Bottleneck, {"stride_in": stride_in})
    widths, option = (64, 128, 256, 512), shortcut if residual else None
    return ResNet(block, blocks, widths, classes, in_channels, (7, 2, 3), option, **options)


def nchw(pictures):
    """A torch tensor (N, C, H, W) from an array (N, H, W, C)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pictures, 3, 1)))


def nhwc(pictures):
    """An array (N, H, W, C) from a torch tensor (N, C, H, W)."""
    return np.moveaxis(pictures.detach().numpy(), 1, 3)


def named_tensors(twin):
    """The twin's parameters and buffers under minires's names."""
    found = {}
    for prefix, module in twin.named_modules():
        is_norm = isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if is_norm:
                name = {"weight": "gamma", "bias": "beta"}.get(name, name)
            if name != "num_batches_tracked":
                found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


def in_minires_layout(name, tensor):
    """A parameter, buffer or gradient of the twin as minires lays it out."""
    array = tensor.detach().numpy()
    if name.rpartition(".")[2] != "weight":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def copy_weights(model, twin):
    """Set the twin to the model's parameters, buffers and dtype, and return it."""
    ours, theirs = model.state_dict(), named_tensors(twin)
    if ours.keys() != theirs.keys():
        raise KeyError(f"the two networks differ in {sorted(ours.keys() ^ theirs.keys())}")
    twin.to(torch.from_numpy(next(iter(ours.values()))).dtype)
    with torch.no_grad():
        for name, tensor in named_tensors(twin).items():
            array = ours[name]
            if name.rpartition(".")[2] == "weight":
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return twin


def gradients(twin):
    """The twin's parameter gradients by minires's names, in minires's layout."""
    return {n: in_minires_layout(n, t.grad) for n, t in named_tensors(twin).items() if t.grad is not None}


def buffers(twin):
    """The twin's running statistics by minires's names."""
    return {n: t.numpy() for n, t in named_tensors(twin).items() if not isinstance(t, nn.Parameter)}
