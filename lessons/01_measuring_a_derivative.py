# %% [markdown]
# # Lesson 1: Measuring a derivative
#
# Every backward pass in these lessons is a formula that somebody derived by hand, and hands slip. A *measured*
# derivative uses nothing but the forward pass, so it cannot share the mistake. This lesson builds the ruler; the
# other lessons use it.
#
# After this lesson you can
#
# - measure a derivative in four ways, and the whole gradient of a loss;
# - say beforehand which step is best and how many digits it will give;
# - explain why nobody should check gradients in float32.
#
# You need Taylor's theorem and NumPy arrays, and about 45 minutes.

# %%
import matplotlib.pyplot as plt
import numpy as np

from minires.classroom import save

EPS = np.finfo(np.float64).eps
print(f"1 and the next larger float64 are {EPS:.3e} apart, 1 and the next float32 {np.finfo(np.float32).eps:.3e}")
assert EPS == 2.0**-52

# %% [markdown]
# ## A function whose every derivative we know
#
# To test a ruler, measure something of known length. Take
# $$f(x) = e^x \sin x = \operatorname{Im}\bigl(e^x (\cos x + i \sin x)\bigr) = \operatorname{Im} e^{(1+i)x}.$$
# Each derivative of $e^{(1+i)x}$ brings down one factor $1 + i = \sqrt 2\, e^{i\pi/4}$, so
# $$f^{(n)}(x) = \operatorname{Im}\bigl((1+i)^n e^{(1+i)x}\bigr) = 2^{n/2}\, e^x \sin(x + n\pi/4).$$
# For $n = 1$ the sum formula of the sine gives back the product rule: $\sqrt2\, e^x \sin(x + \pi/4) = e^x(\sin x +
# \cos x)$.


# %%
def f(x):
    return np.exp(x) * np.sin(x)


def derivative(x, n=1):
    """The n-th derivative of f, exactly."""
    return 2 ** (n / 2) * np.exp(x) * np.sin(x + n * np.pi / 4)


points = np.linspace(0.5, 1.5, 200)  # many points: rounding errors are erratic, and one of them may be lucky
true = derivative(points)
np.testing.assert_allclose(derivative(points, 0), f(points), rtol=1e-14)
np.testing.assert_allclose(true, np.exp(points) * (np.sin(points) + np.cos(points)), rtol=1e-14)


def error(measured):
    """Root mean square of the error over all points, relative to that of the derivative."""
    return np.sqrt(np.mean((measured - true) ** 2) / np.mean(true**2))


# %% [markdown]
# ## One side: two errors that pull in opposite directions
#
# The definition of the derivative, stopped short of its limit, is the **forward difference** $(f(x+h) - f(x))/h$.
# Taylor's theorem says $f(x+h) = f(x) + h f'(x) + \tfrac{h^2}{2} f''(\xi)$ for some $\xi$ between $x$ and $x+h$.
# Subtract $f(x)$, divide by $h$:
# $$\frac{f(x+h) - f(x)}{h} = f'(x) + \frac{h}{2} f''(\xi).$$
# **Truncation error $\tfrac{h}{2}|f''|$: take a small $h$.**
#
# But a computer rounds. A float64 keeps 53 binary digits, so each value of $f$ is off by up to half of
# $\varepsilon|f|$ with $\varepsilon = 2^{-52}$. The two values nearly cancel, and their errors do not: the difference
# may be off by $\varepsilon|f|$, and dividing by $h$ makes this $\varepsilon|f|/h$. **Rounding error
# $\varepsilon|f|/h$: take a large $h$.**
#
# The sum of the two, $E(h) = \tfrac{h}{2}|f''| + \varepsilon|f|/h$, is least where its derivative vanishes:
# $$\tfrac12|f''| - \frac{\varepsilon|f|}{h^2} = 0 \;\Rightarrow\; h^* = \sqrt{2\varepsilon|f|/|f''|}, \qquad
# E(h^*) = 2\sqrt{\tfrac12 \varepsilon |f||f''|}.$$
# If $f$ and its derivatives are of size 1, then $h^* \approx \varepsilon^{1/2} \approx 10^{-8}$, and the error is of
# the same size: **half of the sixteen digits are lost, whatever we do.** Watch them go:

# %%
off = {}
for h in (1e-4, 1e-8, 1e-12):
    up, here = f(1 + h), f(1.0)
    off[h] = abs((up - here) / h - derivative(1.0))
    print(f"h = {h:.0e}:  f(1+h) = {up:.16f}   f(1) = {here:.16f}   quotient = {(up - here) / h:.12f}")
print(f"{'':66}f'(1) = {derivative(1.0):.12f}")
assert off[1e-8] < 1e-3 * min(off[1e-4], off[1e-12])

# %% [markdown]
# One more thing is rounded: $x + h$ itself. What is added is not $h$ but the nearest step that leads to a float64.
# That costs nothing to know: compute `up = x + h`, then divide by `up - x`, the step that was taken.
#
# ## Both sides: the even errors cancel
#
# Write the expansion for $+h$ and for $-h$,
# $$f(x \pm h) = f \pm h f' + \tfrac{h^2}{2} f'' \pm \tfrac{h^3}{6} f''' + \dots$$
# and subtract. All even terms go; $f(x+h) - f(x-h) = 2h f' + \tfrac{h^3}{3} f''' + \dots$, so the **central
# difference** is
# $$\frac{f(x+h) - f(x-h)}{2h} = f' + \frac{h^2}{6} f''' + \dots, \qquad
# E(h) = \frac{h^2}{6}|f'''| + \frac{\varepsilon|f|}{2h}.$$
# Its derivative vanishes where $\tfrac{h}{3}|f'''| = \varepsilon|f|/(2h^2)$:
# $$h^* = \sqrt[3]{\tfrac32\,\varepsilon|f|/|f'''|} \sim \varepsilon^{1/3} \approx 6\cdot10^{-6}, \qquad
# E(h^*) \sim \varepsilon^{2/3} \approx 4\cdot 10^{-11}.$$
#
# ## Four points: cancel once more
#
# Let $D(h)$ be the central difference. With the next term, $D(h) = f' + \tfrac{h^2}{6} f''' + \tfrac{h^4}{120}
# f^{(5)} + \dots$ At twice the step the second term is four times as large and the third sixteen times. So $4 D(h) -
# D(2h)$ has no second term, three times the first, and $(4 - 16)/120 = -1/10$ of the third:
# $$\frac{4D(h) - D(2h)}{3} = f' - \frac{h^4}{30} f^{(5)} + \dots$$
# (Usually called the five-point formula: the weight of the fifth, $f(x)$ itself, is zero.) The pattern is now
# visible. With truncation $\sim h^p$ and rounding $\sim \varepsilon/h$, the best step is $\sim\varepsilon^{1/(p+1)}$
# and the best error $\sim\varepsilon^{p/(p+1)}$: 8, 10 and 12 digits for $p = 1, 2, 4$. Each formula below is a list of
# offsets and weights.

# %%
FORMULAS = {  # name: (offsets, weights, p, constant of the truncation error, order of the derivative that stands there)
    "forward": ((1, 0), (1, -1), 1, 1 / 2, 2),
    "central": ((1, -1), (1 / 2, -1 / 2), 2, 1 / 6, 3),
    "five-point": ((1, -1, 2, -2), (2 / 3, -2 / 3, -1 / 12, 1 / 12), 4, 1 / 30, 5),
}


def measure(formula, x, h):
    """Sum of weight * f(x + offset * h) / h."""
    offsets, weights = FORMULAS[formula][:2]
    h = (x + h) - x  # the step that is really taken
    return sum(w * f(x + o * h) for o, w in zip(offsets, weights, strict=True)) / h


def predict(formula, h, eps=EPS):
    """Truncation + rounding, relative to the derivative, root mean square over all points."""
    _, weights, p, constant, n = FORMULAS[formula]
    truncation = constant * h**p * derivative(points, n)
    rounding = eps / 2 * np.sum(np.abs(weights)) * f(points) / h  # half of eps for each value of f
    return np.sqrt(np.mean(truncation**2) / np.mean(true**2)) + np.sqrt(np.mean(rounding**2) / np.mean(true**2))


# %% [markdown]
# Measure all three at steps from $10^{-15}$ to 1. Two predictions are on trial: the slopes 1, 2 and 4 to the right of
# the minimum, and the place and depth of the minimum itself.

# %%
steps = 10.0 ** np.arange(-15, 0.01, 0.25)
curves = {name: np.array([error(measure(name, points, h)) for h in steps]) for name in FORMULAS}
print("             best step           best error          slope on the right")
print("             predicted measured  predicted measured  predicted measured")
for name, curve in curves.items():
    predicted = np.array([predict(name, h) for h in steps])
    right = steps >= 1e-2 if name == "five-point" else (steps >= 1e-4) & (steps < 0.1)
    slope = np.polyfit(np.log(steps[right][:8]), np.log(curve[right][:8]), 1)[0]
    h_predicted, h_measured = steps[predicted.argmin()], steps[curve.argmin()]
    p = FORMULAS[name][2]
    print(
        f"{name:12} {h_predicted:9.0e} {h_measured:8.0e}  {predicted.min():9.0e} {curve.min():8.0e}  {p:9} {slope:8.2f}"
    )
    assert abs(slope - p) < 0.1, name
    assert 0.1 < h_measured / h_predicted < 10, name
    assert 0.1 < curve.min() / predicted.min() < 10, name

# %% [markdown]
# ## No subtraction, no loss: the complex step
#
# Step in the imaginary direction instead (Squire and Trapp 1998). If $f$ is given by a power series with real
# coefficients, Taylor's formula holds for $ih$ as well:
# $$f(x + ih) = f + ih f' - \tfrac{h^2}{2} f'' - i\tfrac{h^3}{6} f''' + \dots$$
# The imaginary part has only the odd terms, and dividing by $h$ gives
# $$\frac{\operatorname{Im} f(x + ih)}{h} = f' - \frac{h^2}{6} f''' + \dots$$
# A truncation error as large as that of the central difference, but **nothing is subtracted**, so nothing cancels,
# and $h$ may be as small as we please. With $h = 10^{-30}$ the truncation error is $10^{-60}$; what is left is the
# rounding inside $f$.

# %%
tiny_steps = 10.0 ** np.arange(-20, 0.01, 0.25)
complex_curve = np.array([error(f(points + 1j * h).imag / h) for h in tiny_steps])
at_1e30 = error(f(points + 1e-30j).imag / 1e-30)
print(f"complex step, h = 1e-30: relative error {at_1e30:.1e}")
assert at_1e30 < 1e-15
assert complex_curve[tiny_steps < 1e-9].max() < 1e-15

# %% [markdown]
# The price: every operation must be the complex continuation of the real one. Some of NumPy's are not, and they say
# nothing. An absolute value of a complex number is its length, a real number: the imaginary part that carried the
# derivative is gone.

# %%
x = np.array([0.3, -1.2, 0.7])
OPERATIONS = {  # functions of x[0], the other entries fixed
    "np.tanh(x)[0]": lambda x: np.tanh(x)[0],
    "np.maximum(x, 0)[0]": lambda x: np.maximum(x, 0)[0],
    "((x - x.mean())**2).mean()": lambda x: ((x - x.mean()) ** 2).mean(),
    "np.var(x)": lambda x: np.var(x),
    "np.abs(x).sum()": lambda x: np.abs(x).sum(),
    "np.linalg.norm(x)": lambda x: np.linalg.norm(x),
}
e0 = np.array([1.0, 0, 0])
for name, function in OPERATIONS.items():
    by_complex_step = np.imag(function(x + 1e-30j * e0)) / 1e-30
    by_central = (function(x + 6e-6 * e0) - function(x - 6e-6 * e0)) / 12e-6
    agree = abs(by_complex_step - by_central) < 1e-9
    print(f"{name:28} complex step {by_complex_step:+.6f}   central {by_central:+.6f}   {'' if agree else 'LOST'}")
    assert agree == (name not in ("np.var(x)", "np.abs(x).sum()", "np.linalg.norm(x)")), name

# %% [markdown]
# (`np.maximum` and `>` get through only because NumPy compares complex numbers by their real parts first.) A
# measurement that silently returns 0 is worse than a blunt one. So the checker of minires uses central differences,
# which work for every real program, and you keep the complex step for formulas that you can read from end to end.
#
# ## The same in float32
#
# In float32, $\varepsilon = 1.2\cdot10^{-7}$. The formulas above know what follows: forward differences keep
# $\varepsilon^{1/2}$, three or four digits; central ones $\varepsilon^{2/3}$, between four and five, at
# $h \approx 5\cdot10^{-3}$. A check that must forgive so much forgives wrong gradients as well.

# %%
EPS32 = np.finfo(np.float32).eps
steps32 = 10.0 ** np.arange(-6, 0.01, 0.25)
points32 = points.astype(np.float32)
curves32 = {name: np.array([error(measure(name, points32, np.float32(h))) for h in steps32]) for name in FORMULAS}
for name, curve in curves32.items():
    print(f"float32 {name:10}  best error {curve.min():.0e} at h = {steps32[curve.argmin()]:.0e}")
assert measure("central", points32, np.float32(1e-2)).dtype == np.float32
assert curves32["central"].min() > 1e4 * curves["central"].min()

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
STYLES = dict(zip(FORMULAS, (("C0", "o"), ("C1", "^"), ("C4", "D")), strict=True))
axes[0].loglog(tiny_steps, complex_curve, "s", color="grey", ms=4.5, mfc="none", label="complex step")
for ax, grid, measured, eps in ((axes[0], steps, curves, EPS), (axes[1], steps32, curves32, EPS32)):
    for name, curve in measured.items():
        colour, marker = STYLES[name]
        ax.loglog(grid, [predict(name, h, eps) for h in grid], "-", color=colour, lw=1, alpha=0.7)
        ax.loglog(grid, curve, marker, color=colour, ms=3.5, label=name)
        ax.loglog(grid[curve.argmin()], curve.min(), "o", ms=10, mfc="none", mec="black")
    ax.axhline(eps, color="black", lw=0.8, ls=":")
    ax.set_xlabel("step h")
for x, y, slope in ((1e-5, 1e-5, "1"), (1.5e-4, 1e-8, "2"), (2.5e-3, 3e-11, "4")):
    axes[0].text(x, y, f"slope {slope}", fontsize=9, ha="right")
axes[0].text(3e-5, EPS * 1.7, r"$\varepsilon = 2^{-52}$", fontsize=9)
axes[1].text(7e-7, EPS32 * 0.15, r"$\varepsilon = 2^{-23}$", fontsize=9)
axes[0].set(title="float64", ylabel="relative error of the derivative", ylim=(3e-17, 10), xlim=(1e-20, 2))
axes[1].set(title="float32", xlim=(5e-7, 2))
axes[0].legend(loc="lower left", bbox_to_anchor=(0.01, 0.13), title="measured (lines: predicted)", frameon=False)
save(fig, "01_measuring_a_derivative")

# %% [markdown]
# ## A gradient: one entry at a time
#
# A loss depends on many numbers. Its gradient is one derivative for each, all other entries held fixed: two forward
# passes per entry. Here is a small network with its loss, and the gradient of its first matrix by forward and central
# differences. The complex step serves as the truth.

# %%
rng = np.random.default_rng(0)
X, target = rng.standard_normal((20, 6)), rng.standard_normal((20, 3))
W1, W2 = 0.5 * rng.standard_normal((6, 10)), 0.5 * rng.standard_normal((10, 3))


def loss(w1):
    return ((np.tanh(X.astype(w1.dtype) @ w1) @ W2.astype(w1.dtype) - target.astype(w1.dtype)) ** 2).mean()


def each_entry(slope, w):
    """slope(function of one entry, entry) for every entry of w."""
    grad = np.zeros(w.shape)
    for index in np.ndindex(w.shape):

        def of_one(value, index=index):
            moved = w.astype(np.result_type(w, value))
            moved[index] = value
            return loss(moved)

        grad[index] = slope(of_one, w[index])
    return grad


truth = each_entry(lambda g, v: g(v + 1e-30j).imag / 1e-30, W1)


def worst(grad):
    return np.max(np.abs(grad - truth)) / np.max(np.abs(truth))


def central_at(h):
    return lambda g, v: (g(v + h) - g(v - h)) / ((v + h) - (v - h))


print(f"largest error of {W1.size} entries, relative to the largest entry")
W32 = W1.astype(np.float32)
for h in (1e-2, 1e-3, 1e-5, 1e-8):
    forward64 = worst(each_entry(lambda g, v, h=h: (g(v + h) - g(v)) / h, W1))
    central64 = worst(each_entry(central_at(h), W1))
    central32 = worst(each_entry(central_at(np.float32(h)), W32)) if h > 1e-7 else np.nan
    print(f"  h = {h:.0e}   forward {forward64:.0e}   central {central64:.0e}   central in float32 {central32:.0e}")
    if h == 1e-5:
        assert central64 < 1e-7 < forward64 < central32

# %% [markdown]
# ## Putting back
#
# The usual way to move one entry is to change the array in place, run the forward pass and put the entry back. Put it
# back by *assigning the old value*. Subtracting the step again is not the same: an entry smaller than $h$, a bias at
# the beginning of training, say, has digits below the last digit of $x + h$, and adding $h$ rounds them away.

# %%
for size in (1.0, 1e-6):
    values = size * rng.standard_normal(1000)
    returned = (values + 6e-6) - 6e-6
    changed = np.sum(returned != values)
    print(f"of 1000 numbers of size {size:g}, x += h; x -= h changes {changed}")
    assert changed < 50 if size == 1 else changed > 500

# %% [markdown]
# Forgetting it altogether is worse: each entry is then measured at a point where all earlier ones have already moved.

# %%
drifting, grad = W1.copy(), np.zeros(W1.shape)
for index in np.ndindex(W1.shape):
    drifting[index] += 6e-6
    up = loss(drifting)
    drifting[index] -= 12e-6
    grad[index] = (up - loss(drifting)) / 12e-6  # and here something is missing
print(f"entries not put back: error {worst(grad):.0e}, put back: {worst(each_entry(central_at(6e-6), W1)):.0e}")
assert 1e-6 < worst(grad) < 1e-2

# %% [markdown]
# Wrong from the fifth digit on: too small to see, too large for any check worth its name.
#
# ## What it costs
#
# A central difference of a loss with respect to $n$ parameters takes $2n$ forward passes. A ResNet-20 has 269,722
# parameters: 539,444 forward passes for one step of training. That is why there is backpropagation, which is lesson
# 2, and why measuring is for *checking*, on a small case, once.
#
# ## Exercise
#
# In `exercises/lesson01_derivative.py` write `central` (to $10^{-9}$), `complex_step` (to $10^{-14}$) and `gradient`,
# then `minires lessons check 01`.
#
# **The mutant to kill.** This one passes at $x = 1$. Find an $x$ at which it is wrong by more than 1 %, say which of
# the two errors it is, and change one line to mend it.
#
# ```python
# def central_mutant(f, x):
#     h = 6e-6
#     return (f(x + h) - f(x - h)) / (2 * h)
# ```
#
# ## What this does not show
#
# - The predicted minimum needs $f''$, $f'''$ or $f^{(5)}$, which we knew only because we chose $f$. In practice one
#   takes $\varepsilon^{1/3}\max(1, |x|)$ and hopes that they are of size 1; a function that wiggles on a scale of
#   $10^{-4}$ needs a smaller step.
# - The rounding error was taken as $\varepsilon|f|/2$ per value. A long computation rounds at every operation and can
#   be much worse; then the left branch of the U lies higher.
# - All of it assumes a smooth function. At a kink (ReLU at 0) no step is right; lesson 6 looks there.
