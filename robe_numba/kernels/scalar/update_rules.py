"""How an element moves, given the complete sum of its gradients: scalar rules for any target."""

import math

from robe_numba._jit import scalar

# Which rule an update kernel applies.
GRADIENT, SGD, ADAGRAD = 0, 1, 2


@scalar
def sgd(value, grad, lr):
    """The new value: value - lr * grad."""
    return value - lr * grad


@scalar
def axpy(value, grad, alpha):
    """The new value: value + alpha * grad, which for alpha = -lr has the bits of `sgd`."""
    return value + alpha * grad


@scalar
def adagrad(value, state_sum, grad, lr, eps):
    """The new value and the new sum of squared gradients (Duchi et al. 2011)."""
    state_sum = state_sum + grad * grad  # vectors have no in-place operations
    return value - lr * grad / (math.sqrt(state_sum) + eps), state_sum


@scalar
def add_mean(state_sum, squares, count):
    """The new sum of a block of `count` elements: their mean square, squares / count, is added."""
    return state_sum + squares / count


@scalar
def adagrad_rate(state_sum, lr, eps):
    """The learning rate with which SGD moves a block's elements, given its new sum."""
    return lr / (math.sqrt(state_sum) + eps)
