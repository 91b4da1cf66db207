"""Slips in first-order methods: what goes wrong in published texts and code, and what to say to whoever did it."""

from __future__ import annotations

_UPHILL = {"uphill": "the sign: the step climbs; it has to be subtracted"}
_ROOT = {
    "no root": "the square root of the second moment is missing",
    "epsilon in the root": "epsilon stands inside the square root; it belongs beside it",
}
_CORRECTION = {
    "no correction": "the bias correction is missing: both means start at zero and have to be divided by 1 - beta^t",
}
_BETAS = {"betas swapped": "beta1 and beta2 are swapped"}
_LOOK_BACK = {
    "average": "the gradient enters the velocity with weight 1 - momentum; it has weight 1",
    "dampening": "the gradient enters the velocity with weight 1 - momentum after the first step (Torch's dampening); "
    "it has weight 1",
}
_DECAY = {
    "no decay": "the weight decay is missing",
    "coupled": "the weight decay is coupled: it is added to the gradient (L2); decoupled, it shrinks x beside the step",
    "decay without rate": "the weights shrink by weight_decay, not by learning_rate times weight_decay",
    "decay growing": "the sign of the weight decay: weights grow where they should shrink",
}
_ADAM = {
    **_UPHILL,
    **_ROOT,
    **_CORRECTION,
    **_BETAS,
    "first uncorrected": "the bias correction of the first moment is missing",
    "second uncorrected": "the bias correction of the second moment is missing",
    "correction of the root": "the root of the second moment is divided by 1 - beta2^t: correct first, then take the "
    "root",
    "epsilon before the correction": "epsilon is added before the second moment is corrected (the form that saves a "
    "division), so it counts 1/sqrt(1 - beta2^t) times",
    "root in the average": "the square root is taken inside the running average: average the squares, then take the "
    "root",
    "square of the mean": "the second moment averages squares of the mean gradient; it averages squares of gradients",
    "magnitudes": "the second moment averages magnitudes of gradients instead of the root of averaged squares",
    "unweighted": "the gradient enters the first moment with weight 1; it has weight 1 - beta1",
    "no momentum": "the gradient stands for its running mean",
    "count from zero": "t counts from 0 in the bias correction, which divides by zero at first; it counts from 1",
    "count ahead": "t is one too large in the bias correction: it is 1 in the first step",
}

SLIPS: dict[str, dict[str, str]] = {
    "gradient-descent": {
        **_UPHILL,
        "normalized": "the gradient is divided by its length: every step has the length of the learning rate",
        "rate twice": "the learning rate is applied twice",
        "sign": "the sign of the gradient stands for the gradient",
    },
    "heavy-ball": {
        **_UPHILL,
        **_LOOK_BACK,
        "momentum's sign": "the sign of the momentum: the old velocity is subtracted",
        "rate twice": "the learning rate is applied twice: inside the velocity, and again when x moves",
        "look-ahead": "this is Nesterov's step: it adds the momentum to the gradient once more",
        "old velocity": "x moves before the velocity is renewed",
        "no momentum": "the velocity is forgotten after each step",
    },
    "nesterov": {
        **_UPHILL,
        **_LOOK_BACK,
        "no look-ahead": "the look-ahead is missing: this is heavy ball",
        "no weight": "the look-ahead lacks the factor momentum: it is gradient + momentum * velocity",
        "other form": "the place is Nesterov's x before the look-ahead (his original form); here x is the place of the "
        "gradient, x - learning_rate * momentum * velocity",
        "no rate": "the look-ahead lacks the learning rate: momentum * velocity ahead, though x moves by learning_rate "
        "* velocity",
        "backward": "the sign of the look-ahead: it looks back",
        "no momentum": "the velocity is forgotten after each step",
    },
    "adagrad": {
        **_UPHILL,
        "no root": "the square root of the sum of squares is missing",
        "epsilon in the root": "epsilon stands inside the square root; it belongs beside it",
        "root in the sum": "the square root is taken inside the running sum: sum the squares, then take the root",
        "mean": "the mean of the squares stands for their sum",
        "magnitudes": "magnitudes of gradients are summed instead of their squares",
        "one rate": "the squared length of the gradient is summed: one rate for all coordinates",
        "old sum": "the sum of squares is used before the gradient is added to it",
    },
    "rmsprop": {
        **_UPHILL,
        **_ROOT,
        "root in the average": "the square root is taken inside the running average: average the squares, then take "
        "the root",
        "square of the mean": "the square of the average gradient stands for the average of the squares",
        "magnitudes": "magnitudes of gradients are averaged instead of their squares",
        "weights": "the weights of old and new are interchanged in the running average",
        "unweighted": "the new square enters with weight 1; it has weight 1 - beta",
        "corrected": "the average is divided by 1 - beta^t; RMSProp does not correct it for its start",
        "centered": "the square of the mean gradient is subtracted: this is the centered form",
        "old average": "the average is used before it is renewed",
        "start at one": "the average of the squares starts at one; it starts at zero",
    },
    "adadelta": {
        **_UPHILL,
        "no roots": "the square roots of the two averages are missing",
        "epsilon outside": "epsilon stands beside the square roots; here it belongs inside",
        "root in the averages": "the square roots are taken inside the running averages",
        "no numerator": "the average of the squared changes is missing: this is RMSProp",
        "no epsilon above": "epsilon is missing in the numerator: no step is ever taken",
        "gradients above": "the numerator averages squared gradients; it averages squared changes of x",
        "weights": "the weights of old and new are interchanged in the running averages",
    },
    "adam": _ADAM,
    "adamw": {**_ADAM, **_DECAY, "decay after": "the weights shrink after the step instead of before it"},
    "amsgrad": {
        **_UPHILL,
        **_ROOT,
        **_CORRECTION,
        "no maximum": "the maximum over the second moments is missing: this is Adam",
        "maximum averaged": "the maximum replaces the running average of the squares; it is kept beside it",
        "maximum of the corrected": "the maximum is taken after the bias correction; it is taken of the uncorrected "
        "second moments",
    },
    "nadam": {
        **_UPHILL,
        **_ROOT,
        **_CORRECTION,
        "second uncorrected": "the bias correction of the second moment is missing",
        "no look-ahead": "the look-ahead is missing: this is Adam",
        "constant momentum": "the momentum is beta1 throughout; it warms up, beta1 (1 - 0.96^(t momentum_decay)/2)",
        "printed": "both parts are corrected with 1 - beta1^t; the momentum's with that of the next step, and beta1 "
        "warms up",
        "same product": "the momentum's part is corrected with the product of this step, not of the next",
    },
    "adamax": {
        **_UPHILL,
        **_BETAS,
        "no correction": "the bias correction of the first moment is missing",
        "no magnitude": "the gradient stands for its magnitude in the maximum",
        "squares": "squares stand for magnitudes in the maximum",
        "root": "a square root is taken of the maximum; magnitudes need none",
        "epsilon outside": "epsilon is added to the maximum; here it is added to the new magnitude",
        "corrected": "the maximum is divided by 1 - beta2^t; it needs no correction",
        "no decay": "the maximum never decays: beta2 is missing",
    },
    "adopt": {
        **_UPHILL,
        "no root": "the square root of the second moment is missing",
        "current moment": "the gradient is divided by the moment that contains it; ADOPT takes the previous one",
        "order of Adam": "the mean is divided, as in Adam; ADOPT averages gradients that are divided already",
        "no clip": "the divided gradient is not clipped to t^(1/4)",
        "bound counts the first": "the bound of the clipping counts the first gradient: it is t^(1/4), t = 1 in the "
        "first step that moves",
        "first step taken": "the first gradient already moves x; it only starts the second moment",
        "start at zero": "the second moment starts at zero and x moves at once; it starts from the first gradient, "
        "which moves nothing",
        "epsilon added": "epsilon is added to the root; it is its least value",
        "corrected": "the second moment is divided by 1 - beta2^t; ADOPT does not correct it",
    },
    "lion": {
        **_UPHILL,
        **_BETAS,
        **_DECAY,
        "wrong average": "the sign is that of the stored average (beta2), not of the mixture with beta1",
        "momentum first": "the stored average is renewed before the mixture is made",
        "one beta": "the stored average has weight beta1; it has beta2",
        "no sign": "the sign is missing: x moves by the mixture itself",
        "sign first": "the sign is that of the gradient alone",
    },
    "sophia": {
        **_UPHILL,
        **_DECAY,
        "no clip": "the quotient m/(rho h) is not clipped to 1",
        "no rho": "rho is left out of the quotient",
        "gradient": "the gradient stands for its running mean m",
        "old curvature": "h is used before it is renewed",
        "corrected": "h is corrected for its start; Sophia does not correct the means",
        "weights": "the weights of old and new are interchanged",
        "negative curvature": "a negative h turns the step round; it counts as zero, where the step is clipped",
        "magnitudes": "magnitudes of the diagonal are averaged; h may be negative and then counts as zero",
        "row sums": "the diagonal is taken from H times a vector of ones: those are row sums",
        "squared gradient": "the squared gradient stands for the diagonal of the Hessian",
        "every step": "h is renewed in every step, not in every interval-th",
    },
}
"""Method -> slip -> the likely cause in words."""
