"""Wrong optimizers as they are published: written by themselves, with in-place buffers, one mistake each.

Nothing here calls the kit's textbook forms: the code is that of a training script, so that a cause which is named was
found in code the kit has never seen. First-order methods here, those with curvature in ``kit_mistakes_curvature.py``.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

MISTAKES = []
RIGHT = []
EVERY = ("one step", "ten steps", "invariances", "edge cases", "precision")


class Mistake(NamedTuple):
    """A wrong optimizer: ``words`` of the cause (none where no known slip fits); ``note`` of a row that must fail."""

    method: str
    adapter: object
    words: str
    seen_in: str
    levels: tuple[str, ...] = ("one step", "ten steps")
    note: str = ""
    settings: tuple[tuple[str, object], ...] = ()


def mistake(method, words, seen_in, levels=("one step", "ten steps"), note="", settings=()):
    """Registers a class as a wrong form of ``method``; ``seen_in`` says in which kind of text or code it occurs."""

    def register(script):
        MISTAKES.append(Mistake(method, Run(script), words, seen_in, levels, note, settings))
        return script

    return register


def right(method, levels=EVERY):
    """Registers a class as a right form of ``method``, in which the kit must not find fault."""

    def register(script):
        RIGHT.append((method, Run(script), levels))
        return script

    return register


class Run:
    """The adapter: the state is the optimizer itself, which changes its parameters in place."""

    def __init__(self, script):
        self.script, self.__name__ = script, script.__name__

    def init(self, task, **settings):
        return self.script(task, **settings)

    def step(self, task, state):
        state.task = task
        state.update(state.task.gradient(state.x))
        return state


class Script:
    """What scripts have in common: parameters, settings, a counter and buffers of zeros."""

    buffers = ()

    def __init__(self, task, **settings):
        self.task, self.x, self.t = task, task.start, 0
        self.k = SimpleNamespace(**settings)
        for name in self.buffers:
            setattr(self, name, np.zeros_like(self.x))


class AdamScript(Script):
    buffers = ("exp_avg", "exp_avg_sq")

    def moments(self, grad):
        self.t += 1
        self.exp_avg *= self.k.beta1
        self.exp_avg += (1 - self.k.beta1) * grad
        self.exp_avg_sq *= self.k.beta2
        self.exp_avg_sq += (1 - self.k.beta2) * grad * grad
        return 1 - self.k.beta1**self.t, 1 - self.k.beta2**self.t


@right("adam")
class AdamRight(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


# -- Adam and its relatives -------------------------------------------------------------------------------------------


@mistake("adam", "the bias correction is missing", "tutorials: Adam from scratch in ten lines; BertAdam")
class AdamFromScratch(AdamScript):
    def update(self, grad):
        self.moments(grad)
        self.x -= self.k.learning_rate * self.exp_avg / (np.sqrt(self.exp_avg_sq) + self.k.epsilon)


@mistake("adam", "epsilon stands inside the square root", "released code with an eps_root that is taken for eps")
class AdamInnerEpsilon(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / np.sqrt(self.exp_avg_sq / c2 + self.k.epsilon)


@mistake("adam", "epsilon is added before the second moment is corrected", "Adam paper, end of sec. 2; TensorFlow")
class AdamEpsilonHat(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(grad)
        step_size = self.k.learning_rate * np.sqrt(c2) / c1
        self.x -= (step_size * self.exp_avg / (np.sqrt(self.exp_avg_sq) + self.k.epsilon)).astype(self.x.dtype)


@mistake("adam", "t counts from 0", "blog posts: for t in range(steps)")
class AdamFromZero(AdamScript):
    def update(self, grad):
        self.moments(grad)
        self.t -= 1
        m = self.exp_avg / np.float64(1 - self.k.beta1**self.t)
        v = self.exp_avg_sq / np.float64(1 - self.k.beta2**self.t)
        self.x -= self.k.learning_rate * m / (np.sqrt(v) + self.k.epsilon)
        self.t += 1


@mistake("adam", "t is one too large", "training loops that count the step once in the loop and once in the optimizer")
class AdamCountsTwice(AdamScript):
    def __init__(self, task, **settings):
        super().__init__(task, **settings)
        self.t = 1

    def update(self, grad):
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adam", "square root is taken inside the running average", "thesis 3.12 to 3.15")
class AdamPrinted(Script):
    buffers = ("m", "v")

    def update(self, grad):
        self.t += 1
        self.m = self.k.beta1 * self.m + (1 - self.k.beta1) * grad
        self.v = np.sqrt(self.k.beta2 * self.v + (1 - self.k.beta2) * grad**2)
        m_hat, v_hat = self.m / (1 - self.k.beta1**self.t), self.v / (1 - self.k.beta2**self.t)
        self.x = self.x - self.k.learning_rate * m_hat / (v_hat + self.k.epsilon)


@mistake("adam", "root of the second moment is divided by 1 - beta2^t", "thesis 3.14, the root taken outside")
class AdamRootCorrected(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq) / c2 + self.k.epsilon)


@mistake("adam", "beta1 and beta2 are swapped", "code that unpacks betas in the wrong order")
class AdamBetas(AdamScript):
    def __init__(self, task, beta1, beta2, **settings):
        super().__init__(task, beta1=beta2, beta2=beta1, **settings)

    def update(self, grad):
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adam", "", "one second moment for the whole tensor (a mean instead of an elementwise square)")
class AdamOneScale(AdamScript):
    def update(self, grad):
        self.t += 1
        self.exp_avg += (1 - self.k.beta1) * (grad - self.exp_avg)
        self.exp_avg_sq += (1 - self.k.beta2) * ((grad**2).mean() - self.exp_avg_sq)
        m, v = self.exp_avg / (1 - self.k.beta1**self.t), self.exp_avg_sq / (1 - self.k.beta2**self.t)
        self.x -= self.k.learning_rate * m / (np.sqrt(v) + self.k.epsilon)


@mistake(
    "adam", "", "buffers in a default argument, shared by all runs", ("ten steps",), "init must forget the last run"
)
class AdamSharedBuffers(AdamScript):
    def __init__(self, task, shared={}, **settings):  # noqa: B006 (it is the mistake)
        super().__init__(task, **settings)
        kept = shared.setdefault(len(self.x), self)
        self.exp_avg, self.exp_avg_sq = kept.exp_avg, kept.exp_avg_sq

    def update(self, grad):
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adam", "", "buffers made by np.zeros without a dtype", ("precision",), "promoted to float64")
class AdamDouble(AdamScript):
    def update(self, grad):
        if self.t == 0:
            self.exp_avg, self.exp_avg_sq = np.zeros(len(self.x)), np.zeros(len(self.x))
        c1, c2 = self.moments(grad)
        self.x = self.x - self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adam", "", "code that hides divergence with nan_to_num", ("edge cases",), "as if nothing had happened")
class AdamHidesNaN(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(np.nan_to_num(grad, posinf=0.0, neginf=0.0))
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adamw", "coupled", "torch.optim.Adam(weight_decay=...) under the name AdamW; thesis 3.21")
class AdamWithL2(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(grad + self.k.weight_decay * self.x)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adamw", "not by learning_rate times weight_decay", "AdamW paper's own schedule, where the decay has no rate")
class AdamWFixedDecay(AdamScript):
    def update(self, grad):
        self.x *= 1 - self.k.weight_decay
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adamw", "after the step", "training scripts: p.data.add_(p.data, alpha=-lr*wd) behind optimizer.step()")
class AdamWLateDecay(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(grad)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)
        self.x -= self.k.learning_rate * self.k.weight_decay * self.x
