"""More wrong optimizers as they are published: running scales, signs, Sophia. See ``kit_mistakes.py``."""

import numpy as np
from kit_mistakes import AdamScript, Script, mistake

# -- Adam's relatives -------------------------------------------------------------------------------------------------


@mistake("amsgrad", "the maximum replaces the running average", "v = max(v, beta2 v + (1 - beta2) g^2) in one buffer")
class AMSGradOneBuffer(AdamScript):
    def update(self, grad):
        before = self.exp_avg_sq.copy()
        c1, c2 = self.moments(grad)
        np.maximum(before, self.exp_avg_sq, out=self.exp_avg_sq)
        self.x -= self.k.learning_rate * (self.exp_avg / c1) / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("amsgrad", "the bias correction is missing", "AMSGrad paper, algorithm 2, where Torch's form is meant")
class AMSGradPrinted(AdamScript):
    buffers = ("exp_avg", "exp_avg_sq", "v_hat")

    def update(self, grad):
        self.moments(grad)
        self.v_hat = np.maximum(self.v_hat, self.exp_avg_sq)
        self.x -= self.k.learning_rate * self.exp_avg / (np.sqrt(self.v_hat) + self.k.epsilon)


@mistake("nadam", "both parts are corrected with 1 - beta1^t", "thesis 3.20 and overviews of gradient methods")
class NAdamPrinted(AdamScript):
    def update(self, grad):
        c1, c2 = self.moments(grad)
        ahead = self.k.beta1 * self.exp_avg / c1 + (1 - self.k.beta1) * grad / c1
        self.x -= self.k.learning_rate * ahead / (np.sqrt(self.exp_avg_sq / c2) + self.k.epsilon)


@mistake("adamax", "the gradient stands for its magnitude", "code that has torch.max(beta2 * u, grad)")
class AdamaxSigned(Script):
    buffers = ("exp_avg", "exp_inf")

    def update(self, grad):
        self.t += 1
        self.exp_avg += (1 - self.k.beta1) * (grad - self.exp_avg)
        self.exp_inf = np.maximum(self.k.beta2 * self.exp_inf, grad + self.k.epsilon)
        self.x -= self.k.learning_rate / (1 - self.k.beta1**self.t) * self.exp_avg / self.exp_inf


@mistake("adamax", "epsilon is added to the maximum", "Keras, where Torch's form is meant")
class AdamaxKeras(Script):
    buffers = ("exp_avg", "exp_inf")

    def update(self, grad):
        self.t += 1
        self.exp_avg += (1 - self.k.beta1) * (grad - self.exp_avg)
        self.exp_inf = np.maximum(self.k.beta2 * self.exp_inf, np.abs(grad))
        self.x -= self.k.learning_rate / (1 - self.k.beta1**self.t) * self.exp_avg / (self.exp_inf + self.k.epsilon)


@mistake("adopt", "the bound of the clipping counts the first gradient", "pytorch_optimizer's ADOPT")
class AdoptBound(Script):
    buffers = ("exp_avg", "exp_avg_sq")

    def update(self, grad):
        self.t += 1
        if self.t == 1:
            self.exp_avg_sq += grad * grad
            return
        normed = grad / np.maximum(np.sqrt(self.exp_avg_sq), self.k.epsilon)
        normed = np.clip(normed, -(self.t**0.25), self.t**0.25)
        self.exp_avg += (1 - self.k.beta1) * (normed - self.exp_avg)
        self.x -= self.k.learning_rate * self.exp_avg
        self.exp_avg_sq += (1 - self.k.beta2) * (grad * grad - self.exp_avg_sq)


@mistake("adopt", "the moment that contains it", "Adam's order of lines kept; thesis 3.15, against its 3.24")
class AdoptCurrent(Script):
    buffers = ("exp_avg", "exp_avg_sq")

    def update(self, grad):
        self.t += 1
        if self.t == 1:
            self.exp_avg_sq += grad * grad
            return
        self.exp_avg_sq += (1 - self.k.beta2) * (grad * grad - self.exp_avg_sq)
        normed = grad / np.maximum(np.sqrt(self.exp_avg_sq), self.k.epsilon)
        bound = (self.t - 1) ** 0.25
        self.exp_avg += (1 - self.k.beta1) * (np.clip(normed, -bound, bound) - self.exp_avg)
        self.x -= self.k.learning_rate * self.exp_avg


@mistake("lion", "renewed before the mixture is made", "re-implementations that update the buffer first")
class LionBufferFirst(Script):
    buffers = ("exp_avg",)

    def update(self, grad):
        self.x *= 1 - self.k.learning_rate * self.k.weight_decay
        self.exp_avg += (1 - self.k.beta2) * (grad - self.exp_avg)
        mixture = self.k.beta1 * self.exp_avg + (1 - self.k.beta1) * grad
        self.x -= self.k.learning_rate * np.sign(mixture)


@mistake("lion", "the stored average (beta2), not of the mixture", "Signum, released as Lion")
class Signum(Script):
    buffers = ("exp_avg",)

    def update(self, grad):
        self.x *= 1 - self.k.learning_rate * self.k.weight_decay
        self.exp_avg += (1 - self.k.beta2) * (grad - self.exp_avg)
        self.x -= self.k.learning_rate * np.sign(self.exp_avg)


# -- scales without momentum ------------------------------------------------------------------------------------------


@mistake("adagrad", "the step climbs", "thesis 3.7")
class AdaGradPrinted(Script):
    buffers = ("squares",)

    def update(self, grad):
        self.squares += grad * grad
        v = np.sqrt(self.squares)
        self.x = self.x + self.k.learning_rate * grad / (v + self.k.epsilon)


@mistake("adagrad", "the square root of the sum of squares is missing", "slides that write g/(G + eps)")
class AdaGradNoRoot(Script):
    buffers = ("state_sum",)

    def update(self, grad):
        self.state_sum += grad * grad
        self.x -= self.k.learning_rate * grad / (self.state_sum + self.k.epsilon)


@mistake("adagrad", "one rate for all coordinates", "AdaGrad-Norm, as in the stepsize literature the ELMO paper cites")
class AdaGradNorm(Script):
    total = 0.0

    def update(self, grad):
        self.total += float(grad @ grad)
        self.x -= self.k.learning_rate * grad / (np.sqrt(self.total) + self.k.epsilon)


@mistake("rmsprop", "square root is taken inside the running average", "thesis 3.8")
class RMSPropPrinted(Script):
    buffers = ("v",)

    def update(self, grad):
        self.v = np.sqrt(self.k.beta * self.v + (1 - self.k.beta) * grad**2)
        self.x -= self.k.learning_rate * grad / (self.v + self.k.epsilon)


@mistake("rmsprop", "epsilon stands inside the square root", "TensorFlow 1, where Torch's form is meant")
class RMSPropInnerEpsilon(Script):
    buffers = ("square_avg",)

    def update(self, grad):
        self.square_avg = self.k.beta * self.square_avg + (1 - self.k.beta) * grad**2
        self.x -= self.k.learning_rate * grad / np.sqrt(self.square_avg + self.k.epsilon)


@mistake("rmsprop", "starts at one", "TensorFlow 1's initial accumulator")
class RMSPropOnes(Script):
    def __init__(self, task, **settings):
        super().__init__(task, **settings)
        self.square_avg = np.ones_like(self.x)

    def update(self, grad):
        self.square_avg *= self.k.beta
        self.square_avg += (1 - self.k.beta) * grad * grad
        self.x -= self.k.learning_rate * grad / (np.sqrt(self.square_avg) + self.k.epsilon)


@mistake("adadelta", "no step is ever taken", "thesis 3.8 to 3.10: U starts at zero and has no epsilon")
class AdaDeltaPrinted(Script):
    buffers = ("u", "v")

    def update(self, grad):
        self.v = np.sqrt(self.k.beta * self.v + (1 - self.k.beta) * grad**2)
        change = -self.u / (self.v + self.k.epsilon) * grad
        self.u = np.sqrt(self.k.beta * self.u + (1 - self.k.beta) * change**2)
        self.x += change


@mistake("adadelta", "epsilon stands beside the square roots", "Adam's habit carried over")
class AdaDeltaOutside(Script):
    buffers = ("square_avg", "acc_delta")

    def update(self, grad):
        self.square_avg = self.k.beta * self.square_avg + (1 - self.k.beta) * grad**2
        delta = (np.sqrt(self.acc_delta) + self.k.epsilon) / (np.sqrt(self.square_avg) + self.k.epsilon) * grad
        self.acc_delta = self.k.beta * self.acc_delta + (1 - self.k.beta) * delta**2
        self.x -= self.k.learning_rate * delta


# -- Sophia -----------------------------------------------------------------------------------------------------------


class SophiaScript(Script):
    buffers = ("m", "h")

    def diagonal(self):
        return np.diag(self.task.hessian(self.x))

    def due(self):
        self.t += 1
        return (self.t - 1) % self.k.interval == 0

    def finish(self, ratio):
        self.x *= 1 - self.k.learning_rate * self.k.weight_decay
        self.x -= self.k.learning_rate * np.clip(ratio, -1, 1)

    def mean(self, grad):
        self.m = self.k.beta1 * self.m + (1 - self.k.beta1) * grad
        return self.m


@mistake("sophia", "taken from H times a vector of ones", "a Hutchinson probe of ones, taken for the diagonal")
class SophiaOnes(SophiaScript):
    def update(self, grad):
        if self.due():
            estimate = self.task.hvp(self.x, np.ones_like(self.x))
            self.h = self.k.beta2 * self.h + (1 - self.k.beta2) * estimate
        self.finish(self.mean(grad) / (self.k.rho * np.maximum(self.h, 0) + self.k.epsilon))


@mistake("sophia", "h is used before it is renewed", "update_hessian() called behind step(), as in the released loop")
class SophiaLate(SophiaScript):
    def update(self, grad):
        due, diagonal = self.due(), self.diagonal()
        self.finish(self.mean(grad) / (self.k.rho * np.maximum(self.h, 0) + self.k.epsilon))
        if due:
            self.h = self.k.beta2 * self.h + (1 - self.k.beta2) * diagonal


@mistake("sophia", "a negative h turns the step round", "re-implementations without the maximum with zero")
class SophiaSigned(SophiaScript):
    def update(self, grad):
        if self.due():
            self.h = self.k.beta2 * self.h + (1 - self.k.beta2) * self.diagonal()
        self.finish(self.mean(grad) / (self.k.rho * self.h + self.k.epsilon))
