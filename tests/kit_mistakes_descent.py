"""More wrong optimizers as they are published: gradient descent and inertia. See ``kit_mistakes.py``."""

import numpy as np
from kit_mistakes import MISTAKES, Mistake, Script, mistake

# -- gradient descent and inertia -------------------------------------------------------------------------------------


@mistake("gradient-descent", "every first step is 2 times", "a loss r·r whose gradient is taken for that of r·r/2")
class TwiceTheGradient(Script):
    def update(self, grad):
        self.x -= self.k.learning_rate * 2 * grad


@mistake("gradient-descent", "", "clip_grad_norm_ left in the loop")
class ClippedGradient(Script):
    def update(self, grad):
        self.x -= self.k.learning_rate * grad * min(1.0, 1.0 / (np.linalg.norm(grad) + 1e-6))


def climbing(gradient, hvp, learning_rate):
    """A plain direction: what is added to x."""
    return learning_rate * gradient


MISTAKES.append(
    Mistake(
        "gradient-descent", climbing, "it has to be subtracted", "thesis 3.36 (the Hessian-free step)", ("one step",)
    )
)


@mistake("heavy-ball", "weight 1 - momentum; it", "courses that teach momentum as a moving average")
class MovingAverage(Script):
    buffers = ("velocity",)

    def update(self, grad):
        self.velocity *= self.k.momentum
        self.velocity += (1 - self.k.momentum) * grad
        self.x -= self.k.learning_rate * self.velocity


@mistake("heavy-ball", "Torch's dampening", "SGD(momentum=m, dampening=m)")
class Dampened(Script):
    buf = None

    def update(self, grad):
        if self.buf is None:
            self.buf = grad.copy()
        else:
            self.buf = self.k.momentum * self.buf + (1 - self.k.momentum) * grad
        self.x -= self.k.learning_rate * self.buf


@mistake(
    "heavy-ball", "the learning rate is applied twice", "velocity with the rate inside, x moved with the rate again"
)
class RateTwice(Script):
    buffers = ("velocity",)

    def update(self, grad):
        self.velocity = self.k.momentum * self.velocity + self.k.learning_rate * grad
        self.x -= self.k.learning_rate * self.velocity


@mistake("heavy-ball", "the sign of the momentum", "v = m v - rate g, taken together with x -= v")
class MixedSigns(Script):
    buffers = ("velocity",)

    def update(self, grad):
        self.velocity = -self.k.momentum * self.velocity + self.k.learning_rate * grad
        self.x -= self.velocity


@mistake("nesterov", "the look-ahead lacks the learning rate", "thesis 3.3 to 3.5")
class NesterovPrinted(Script):
    buffers = ("z",)

    def update(self, grad):
        ahead = self.x + self.k.momentum * self.z
        self.z = self.k.momentum * self.z - self.task.gradient(ahead)
        self.x += self.k.learning_rate * self.z


@mistake("nesterov", "before the look-ahead", "Nesterov's own form, compared with torch.optim.SGD(nesterov=True)")
class NesterovOriginal(Script):
    buffers = ("v",)

    def update(self, grad):
        grad = self.task.gradient(self.x + self.k.momentum * self.v)
        self.v = self.k.momentum * self.v - self.k.learning_rate * grad
        self.x += self.v


@mistake("nesterov", "this is heavy ball", "options nesterov=True that are accepted and ignored")
class NesterovIgnored(Script):
    buffers = ("buf",)

    def update(self, grad):
        self.buf *= self.k.momentum
        self.buf += grad
        self.x -= self.k.learning_rate * self.buf


@mistake("nesterov", "lacks the factor momentum", "grad.add(buf) for grad.add(buf, alpha=momentum)")
class NesterovUnweighted(Script):
    buffers = ("buf",)

    def update(self, grad):
        self.buf = self.k.momentum * self.buf + grad
        self.x -= self.k.learning_rate * (grad + self.buf)
