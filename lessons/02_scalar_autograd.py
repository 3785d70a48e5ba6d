# %% [markdown]
# # Lesson 2: Scalar autograd
#
# After this lesson you can
#
# - draw any computation as a graph and read its derivative off as a sum over paths;
# - say why a value must wait until all its uses have spoken, and what goes wrong if it does not;
# - write a reverse-mode engine that differentiates a program with respect to all its inputs in one sweep.
#
# You need lesson 1 (the ruler), the chain rule, and about 45 minutes.

# %%
import math
import sys

import matplotlib.pyplot as plt
import numpy as np

from minires import Tensor, inspect
from minires.classroom import save

# %% [markdown]
# ## 1. A program is a graph
#
# A program that computes a number does so in small steps, each of which takes one or two numbers and gives one. If
# every result remembers what it was made from, the program leaves a graph behind: values, and arrows from each to
# those made from it. One thing more is worth remembering, while the numbers are at hand: **how fast the result
# changes with each of its parents.** These local slopes are all the calculus in this lesson:
#
# | step | slopes |
# |---|---|
# | $u = a + b$ | $\partial u/\partial a = 1,\quad \partial u/\partial b = 1$ |
# | $u = a\,b$ | $\partial u/\partial a = b,\quad \partial u/\partial b = a$ |
# | $u = \tanh a$ | $\partial u/\partial a = 1 - \tanh^2 a = 1 - u^2$ |


# %%
class Value:
    """A number that remembers what it was made from, and how fast it changes with each of that."""

    def __init__(self, data, parents=(), slopes=()):
        self.data, self.parents, self.slopes, self.grad = data, parents, slopes, 0.0

    def __add__(self, other):
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def tanh(self):
        u = np.tanh(self.data)
        return Value(u, (self,), (1 - u**2,))


# %% [markdown]
# ## 2. The chain rule on a graph
#
# Call the last result $L$. For each value $v$ we want $\bar v = dL/dv$: how much $L$ moves when $v$ does. Let
# $u_1, \dots, u_k$ be the **uses** of $v$, the steps that take it directly. If $v$ moves by a little $\delta$, then, to
# first order,
#
# 1. each use moves by $\delta u_i = \frac{\partial u_i}{\partial v}\,\delta$: that is what a slope is;
# 2. $L$ moves by $\sum_i \bar u_i\,\delta u_i$: small changes of several arguments add up;
# 3. nothing else moves, for $v$ reaches $L$ through its uses alone.
#
# Put 1 into 2 and divide by $\delta$:
# $$\boxed{\ \bar v = \sum_i \bar u_i\, \frac{\partial u_i}{\partial v}\ }\qquad \bar L = 1.$$
# That is the whole theory. **Where a value fans out to several uses, its gradient is the sum of what comes back from
# each.** Going from $L$ backwards, every $\bar u_i$ is known before $\bar v$ is needed: *reverse mode*.
#
# By hand, for $L = x\,x + x$ at $x = 3$, with $a = x\,x$:

# %%
x = Value(3.0)
a = x * x
L = a + x

L.grad = 1.0
a.grad = L.grad * L.slopes[0]  # the only use of a is the sum
x.grad = L.grad * L.slopes[1] + a.grad * a.slopes[0] + a.grad * a.slopes[1]  # three uses: once in the sum, twice in x*x
print(f"dL/dx = {x.grad}, and 2x + 1 = {2 * x.data + 1}")
assert x.grad == 7

# %% [markdown]
# Three arrows leave $x$, and three terms arrive. Note the $+1$ that the bare $x$ contributes: add a function's input
# to its output, and its derivative gains a one. That is the residual connection, and lesson 9 is about it.
#
# ## 3. A sum over paths, and why nobody computes it that way
#
# Put the boxed formula into itself, again and again, until only $\bar L = 1$ is left. What remains is a sum with one
# term for each path from $x$ to $L$, and each term is the product of the slopes along its path:
# $$\frac{dL}{dx} = \sum_{\text{paths } x \to L}\ \prod_{\text{arrows}} \text{slope}.$$
# As a program it is three lines. Start at $L$ with 1; multiply by the slope of each arrow; add up what arrives.


# %%
def along_all_paths(value, weight, arrived):
    """Add to ``arrived[v]`` the product of slopes of every path from ``value`` down to v; returns how many steps."""
    arrived[value] = arrived.get(value, 0.0) + weight
    steps = 1
    for parent, slope in zip(value.parents, value.slopes, strict=True):
        steps += along_all_paths(parent, weight * slope, arrived)
    return steps


def residual_chain(x, blocks):
    """v -> tanh(v) + v, so many times: two paths through each block."""
    for _ in range(blocks):
        x = x.tanh() + x
    return x


# %% [markdown]
# It is right, and useless. A chain of $n$ residual blocks has $2^n$ paths, because each block offers two: through it
# or past it. (A ResNet with 54 blocks has $2^{54}$.) But many paths share their beginnings. If a value *waits* until
# all of its uses have told it their part, it knows its whole $\bar v$, and speaks to its parents **once**, for all
# those paths together. How long to wait? Count the uses first; when the last one has spoken, it is the value's turn.


# %%
def backward(root):
    """Set .grad of every value below root to d(root)/d(value); returns how many values spoke."""
    waiting_for, found = {root: 0}, [root]
    for value in found:  # a list that grows as we read it
        for parent in value.parents:
            if parent not in waiting_for:
                waiting_for[parent] = 0
                parent.grad = 0.0  # from an earlier sweep, perhaps
                found.append(parent)
            waiting_for[parent] += 1
    root.grad = 1.0
    ready, spoken = [root], 0
    while ready:
        value = ready.pop()
        spoken += 1
        for parent, slope in zip(value.parents, value.slopes, strict=True):
            parent.grad += value.grad * slope  # the boxed formula
            waiting_for[parent] -= 1
            if waiting_for[parent] == 0:
                ready.append(parent)
    return spoken


blocks, by_paths, by_waiting = range(1, 16), [], []
for n in blocks:
    x = Value(0.1)
    L = residual_chain(x, n)
    arrived = {}
    by_paths.append(along_all_paths(L, 1.0, arrived))
    by_waiting.append(backward(L))
    assert math.isclose(x.grad, arrived[x], rel_tol=1e-12)
print(f"{n} blocks: dL/dx = {x.grad:.10f} either way; {by_paths[-1]} steps along paths, {by_waiting[-1]} by waiting")
assert by_waiting == [2 * n + 1 for n in blocks]
assert all(steps > 2**n for n, steps in zip(blocks, by_paths, strict=True))
by_complex_step = residual_chain(Value(0.1 + 1e-30j), n).data.imag / 1e-30  # the ruler of lesson 1: np.tanh takes it
assert math.isclose(x.grad, by_complex_step, rel_tol=1e-12)

# %% [markdown]
# Both agree with the ruler of lesson 1. Now the picture: the graph of one block with a product after it, drawn by
# `minires.inspect`. A `Tensor` of minires is a `Value` that holds an array, and records itself in the same way.

# %%
x = Tensor(np.array(0.7), requires_grad=True)
a = x * x
L = a * a.tanh() + x
drawing = inspect.draw_graph(L, names={"x": x, "a": a, "L": L})

fig, axes = plt.subplots(2, 1, figsize=(7.5, 6), height_ratios=(1, 1.6), layout="constrained")
drawing.plot(axes[0])
axes[0].set_title(r"$L = a\,\tanh a + x$ with $a = x\,x$: both $x$ and $a$ fan out", fontsize=11)
axes[1].semilogy(blocks, by_paths, "o-", color="C1", label="one path at a time")
axes[1].semilogy(blocks, by_waiting, "s-", color="C0", label="each value once, when its uses have spoken")
axes[1].set(xlabel="residual blocks in the chain", ylabel="steps of the backward pass")
axes[1].legend(frameon=False)
save(fig, "02_scalar_autograd")
assert sum(node.kind == "leaf" for node in drawing.nodes) == 1
assert len(drawing.edges) == 7

# %% [markdown]
# ## 4. Four ways to get it wrong
#
# Each is a small slip, and each gives the right answer on *some* graphs. Take $L = a\,t$ with $a = x\,x$ and $t =
# \tanh a$: here $a$ has two uses **and** a parent, which is what it takes to see all four. A sweep is given the order
# in which values speak; the truth comes from the complex step.


# %%
def sweep(order, assign=False, keep=False):
    for value in order:
        value.grad = value.grad if keep else 0.0
    order[0].grad = 1.0
    for value in order:
        for parent, slope in zip(value.parents, value.slopes, strict=True):
            parent.grad = (0.0 if assign else parent.grad) + value.grad * slope
    return order[-1].grad


x = Value(0.7)
a = x * x
t = a.tanh()
L = a * t
z = 0.7 + 1e-30j
truth = (z * z * np.tanh(z * z)).imag / 1e-30
right = sweep([L, t, a, x])
wrong = {
    "'=' for '+=': the last use wins": sweep([L, t, a, x], assign=True),
    "a speaks before t has spoken to it": sweep([L, a, t, x]),
    "a speaks twice, with all it has heard": sweep([L, a, t, a, x]),
}
sweep([L, t, a, x])
wrong["a second sweep, gradients kept"] = sweep([L, t, a, x], keep=True)

print(f"{'the truth':38} {truth:.6f}\n{'each value once, after its uses':38} {right:.6f}")
assert math.isclose(right, truth, rel_tol=1e-12)
for what, grad in wrong.items():
    print(f"{what:38} {grad:.6f}, {grad / truth:.2f} times the truth")
    assert abs(grad - truth) > 0.1 * abs(truth), what

# %% [markdown]
# The last one is not even twice the truth. In the second sweep $t$ begins with its old gradient, so it sends the
# first sweep's part down again; then so does $a$, of what was already too much. (`minires` does keep gradients
# between calls, but on the leaves alone, where the sum over several batches is useful. Between the leaves it begins
# anew.)
#
# ## 5. Depth, and Python's stack
#
# The order "inputs before results" is called **topological**, and a graph has one as long as nothing is made from
# itself. The textbook way to find it is to visit the parents first, by recursion, and then write the value down; read
# backwards, that list tells everybody when to speak. You will write it in the exercise, but not by recursion: adding
# up 5,000 numbers one by one makes a chain 5,000 deep, and Python gives up at about a thousand.


# %%
def depth(value):
    return 1 + max((depth(parent) for parent in value.parents), default=0)


x = Value(1.0)
total = x
for _ in range(5000):
    total = total + x
try:
    depth(total)
    raise AssertionError("Python's stack was deep enough")
except RecursionError:
    print(f"recursion stopped at Python's limit of {sys.getrecursionlimit()} calls")
backward(total)
print(f"the walk with a list of its own did not: d(total)/dx = {x.grad:.0f}")
assert x.grad == 5001

# %% [markdown]
# ## 6. One sweep, all inputs
#
# Lesson 1 paid two forward passes *per parameter*. A backward sweep goes over every arrow once, whatever the number
# of inputs: a small multiple of one forward pass for the whole gradient. Here is a network made of single numbers, 2
# inputs, 4 hidden units and 1 output, that has to learn "exactly one of the two". First its 17 derivatives against
# the ruler.

# %%
rng = np.random.default_rng(3)
parameters = [Value(p) for p in rng.standard_normal(17)]
EXAMPLES = [((-1.0, -1.0), -1.0), ((-1.0, 1.0), 1.0), ((1.0, -1.0), 1.0), ((1.0, 1.0), -1.0)]


def network(p, inputs):
    first, second = inputs
    output = p[16]
    for i in range(0, 16, 4):
        output = output + p[i] * (p[i + 1] * first + p[i + 2] * second + p[i + 3]).tanh()
    return output


def loss(p):
    """The mean of the squared errors."""
    total = Value(0.0)
    for inputs, wanted in EXAMPLES:
        error = network(p, [Value(v) for v in inputs]) + Value(-wanted)
        total = total + error * error
    return total * Value(1 / len(EXAMPLES))


L = loss(parameters)
spoken = backward(L)
largest = 0.0
for i, parameter in enumerate(parameters):
    nudged = [Value(p.data + (1e-30j if j == i else 0)) for j, p in enumerate(parameters)]
    largest = max(largest, abs(parameter.grad - loss(nudged).data.imag / 1e-30))
print(f"17 derivatives in one sweep over {spoken} values; largest difference from the complex step {largest:.1e}")
assert largest < 1e-13

# %%
for step in range(201):
    L = loss(parameters)
    backward(L)
    for parameter in parameters:
        parameter.data -= 0.1 * parameter.grad
    if step % 50 == 0:
        print(f"step {step:3}  loss {L.data:.4f}")
outputs = [network(parameters, [Value(v) for v in inputs]).data for inputs, _ in EXAMPLES]
print("outputs", [f"{o:+.2f}" for o in outputs], "wanted", [f"{w:+.0f}" for _, w in EXAMPLES])
assert L.data < 0.05
assert all(o * wanted > 0.5 for o, (_, wanted) in zip(outputs, EXAMPLES, strict=True))

# %% [markdown]
# And the engine itself, on the graph of the picture: the same number, from `minires/tensor/graph.py`, whose `walk` is
# our `backward` with arrays for numbers.

# %%
x, t = Value(0.7), Tensor(np.array(0.7), requires_grad=True)
a, b = x * x, t * t
backward(a * a.tanh() + x)
(b * b.tanh() + t).backward()
print(f"ours {x.grad:.12f}, minires {t.grad.item():.12f}")
assert math.isclose(x.grad, t.grad.item(), rel_tol=1e-12)

# %% [markdown]
# ## Exercise
#
# In `exercises/lesson02_autograd.py` write the slopes of a few operations, `topological` (depth first, no recursion)
# and `backward`, then `minires lessons check 02`.
#
# **The mutant to kill.** This walk takes the values in order of their distance from the root, nearest first. It
# passes on every tree and on $x\,x + x$. Find the smallest graph on which it fails, and say which of the four slips
# it is.
#
# ```python
# def mutant(root):
#     found = [root]
#     for value in found:  # breadth first
#         found += [p for p in dict.fromkeys(value.parents) if p not in found]
#     for value in found:
#         value.grad = 0.0
#     root.grad = 1.0
#     for value in found:
#         for parent, slope in zip(value.parents, value.slopes):
#             parent.grad += value.grad * slope
# ```
#
# ## What this does not show
#
# - Scalars are for understanding. Every multiplication here costs a Python object; an engine for networks makes the
#   same walk over arrays, thousands of numbers per arrow. That is lesson 3.
# - The price is memory: all slopes are kept until the sweep comes by. For a function of *one* input and many outputs,
#   going forwards is cheaper.
# - The walk multiplies and adds the slopes that it is given. If one of them is wrong, so is the result, and nothing
#   here would notice: that is what the ruler of lesson 1 is for.
