"""The minimiser of many subsets at once: limited-memory quasi-Newton steps on top of the task models.

Each pass over the examples tries one point for every subset that is still active. The inverse Hessian of a step is
that of the task models (conjugate gradients; no example is read), corrected by the last secant pairs of the subset.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from affinity_service.deadline import check_deadline
from affinity_service.fitting.blocks import TaskBlock
from affinity_service.fitting.curvature import TaskModels
from affinity_service.fitting.layout import Layout, evaluate
from affinity_service.fitting.problem import Members
from affinity_service.fitting.systems import Systems

_PAIRS = 16
_ARMIJO = 1e-4
# Steps whose expected decrease is below this share of the value are judged by slopes (approximate Wolfe conditions,
# Hager & Zhang 2005), which also spares the logarithms.
_NEAR = 1e-3
_SLOPE = 0.8
_SHORTEST = 1e-6
# Solving the model more precisely than this gains nothing: its curvature is further off than that.
_INNER_TOLERANCE = 0.05
_INNER_LIMIT = 25
_EXACT_TOLERANCE = 1e-6
_EXACT_LIMIT = 300
_BEST_RATIO = 0.02
# Passes without a step clearly shorter than all before it: rounding, or a problem too hard for this method.
_PATIENCE = 20


@dataclass
class Outcome:
    """Per subset: weights (M, d), passes (M,), converged (M,), gradient norm (M,), objective (M,)."""

    weights: Tensor
    iterations: Tensor
    converged: Tensor
    gradient_norm: Tensor
    objective: Tensor


@dataclass
class _State:
    """The active subsets. number: their places in the outcome; x: the best points so far, with value and gradient;
    scale: the fraction of the step to try; first, length and shortest: steps; pairs: change of x, change of the
    gradient and 1/(their product), which is 0 for a subset without that pair.
    """

    number: Tensor
    l2: Tensor
    exact: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    scale: Tensor
    moved: Tensor
    length: Tensor
    first: Tensor
    shortest: Tensor
    waited: Tensor
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def take(self, keep: Tensor) -> None:
        for item in fields(self):
            if item.name != "pairs":
                setattr(self, item.name, getattr(self, item.name)[keep])
        self.pairs = [(change[keep], slope[keep], inverse[keep]) for change, slope, inverse in self.pairs]


class Descent:
    """Minimises the objectives of the subsets of one tile.

    tolerance: of the weights, relative to the largest one of a subset, or to `smallest` where that is larger.
    limit: passes over the examples.
    """

    def __init__(
        self, blocks: Sequence[TaskBlock], models: TaskModels, tolerance: float, smallest: float, limit: int
    ) -> None:
        self.blocks = blocks
        self.models = models
        self.tolerance = tolerance
        self.smallest = smallest
        self.limit = limit

    def run(self, members: Members, l2: Tensor, exact: Tensor, start: Tensor | None = None) -> Outcome:
        """l2 (M,); exact (M,) marks subsets of squared losses, whose models are exact; start (M, d)."""
        layout = Layout(self.blocks, members, l2.device)
        systems = Systems(self.models, layout, l2)
        state = self._begin(layout, l2, exact, start)
        out = Outcome(
            state.x.clone(),
            torch.zeros_like(state.number),
            torch.zeros_like(exact),
            state.gradient.norm(dim=1),
            state.value.clone(),
        )
        for passes in range(self.limit + 1):
            check_deadline()
            step, inexact = _direction(state, systems)
            converged, finished = self._judge(state, step, inexact, passes)
            if passes == self.limit:
                finished.fill_(True)
            if bool(finished.any()):
                _record(out, state, step, converged, finished, passes)
                keep = torch.nonzero(~finished).flatten()
                if not len(keep):
                    break
                state.take(keep)
                step = step[keep]
                layout = Layout(self.blocks, members.take(state.number.cpu()), l2.device)
                systems = Systems(self.models, layout, state.l2)
            self._try(state, layout, step)
        return out

    def _begin(self, layout: Layout, l2: Tensor, exact: Tensor, start: Tensor | None) -> _State:
        if start is None:
            x = self.models.w.repeat(len(l2), 1)
            value = layout.mean_of_tasks(self.models.losses)[:, 0]
            gradient = layout.mean_of_tasks(self.models.gradients)
        else:
            x = start
            losses, gradient = evaluate(self.blocks, layout, x)
            assert losses is not None
            value = losses
        value = value + 0.5 * l2 * x.square().sum(1)
        gradient = torch.addcmul(gradient, l2[:, None], x)
        infinite = torch.full_like(l2, torch.inf)
        number = torch.arange(len(l2), device=l2.device)
        return _State(
            number=number, l2=l2, exact=exact, x=x, value=value, gradient=gradient, scale=torch.ones_like(l2),
            moved=torch.ones_like(exact), length=infinite, first=infinite, shortest=infinite,
            waited=torch.zeros_like(number),
        )  # fmt: skip

    def _judge(self, state: _State, step: Tensor, inexact: Tensor, passes: int) -> tuple[Tensor, Tensor]:
        """Which subsets will have converged after this step, and which leave, converged or given up."""
        length = step.abs().amax(1)
        # Steps shrink about geometrically; what remains after this one is the rest of the series. The last ratio may
        # be luck, so the mean one counts as well, and so does what conjugate gradients left of the step.
        first = torch.where(state.first.isfinite(), state.first, length)
        ratio = torch.where(state.length.isfinite(), length / state.length, 1.0)
        mean = (length / first) ** (1 / max(1, passes))
        believed = torch.where(state.scale < 1, 1.0, torch.maximum(ratio, mean)).nan_to_num(0)
        # One short step says little: parts of the problem that converge slowly may hide below one that does not.
        least = torch.where(state.exact, _BEST_RATIO, max(_BEST_RATIO, 0.3 * 0.4 ** (passes - 1)))
        believed = believed.maximum(least).maximum(2 * inexact).clamp_max(0.95)
        rest = length * believed / (1 - believed)
        size = (state.x + step).abs().amax(1).clamp_min(self.smallest)
        converged = state.moved & (rest <= self.tolerance * size)
        shorter = length < 0.7 * state.shortest
        state.waited = torch.where(shorter, 0, state.waited + 1)
        state.shortest = torch.where(shorter, length, state.shortest)
        state.first = first
        state.length = torch.where(state.moved, length, state.length)
        hopeless = (state.waited > _PATIENCE) | (state.scale < _SHORTEST) | ~length.isfinite()
        return converged, converged | hopeless

    def _try(self, state: _State, layout: Layout, step: Tensor) -> None:
        """One pass: accepts the tried points that decrease the objective enough, shortens the other steps."""
        trial = torch.addcmul(state.x, state.scale[:, None], step)
        slope_here = (step * state.gradient).sum(1)
        expected = state.scale * slope_here
        far = -expected > _NEAR * state.value.abs()
        losses, gradient = evaluate(self.blocks, layout, trial, bool(far.any()))
        gradient.addcmul_(state.l2[:, None], trial)
        slope_there = (step * gradient).sum(1)
        # Close to the minimum the difference of two values is rounding, and the slopes tell what it is.
        value = state.value + 0.5 * (expected + state.scale * slope_there)
        good = slope_there.abs() <= _SLOPE * slope_here.abs()
        if losses is not None:
            measured = losses + 0.5 * state.l2 * trial.square().sum(1)
            value = torch.where(far, measured, value)
            good = torch.where(far, measured <= state.value + _ARMIJO * expected, good)
        good &= gradient.isfinite().all(1)
        # The minimum of the parabola through the value and slope here and the value there.
        shrink = -0.5 * expected / (value - state.value - expected)
        shrink = torch.where(shrink.isfinite(), shrink, 0.1).clamp(0.1, 0.5)
        change, slope = trial - state.x, gradient - state.gradient
        product = (change * slope).sum(1)
        curved = good & (product > 1e-6 * (change * state.gradient).sum(1).abs())
        inverse = torch.where(curved, 1 / product, 0.0)
        state.pairs = [*state.pairs[-_PAIRS + 1 :], (change, slope.nan_to_num_(0, 0, 0), inverse)]
        state.scale = torch.where(good, 1.0, state.scale * shrink)
        # Memory that keeps leading uphill is wrong; the task models alone always lead downhill.
        lost = state.scale < 0.01
        if bool(lost.any()):
            for _, _, inverse in state.pairs:
                inverse.masked_fill_(lost, 0)
        state.x = torch.where(good[:, None], trial, state.x)
        state.value = torch.where(good, value, state.value)
        state.gradient = torch.where(good[:, None], gradient, state.gradient)
        state.moved = good


def _direction(state: _State, systems: Systems) -> tuple[Tensor, Tensor]:
    """−(inverse Hessian)·gradient by the two-loop recursion, and how inexact it is.

    It is a direction of descent for every subset.
    """
    q = state.gradient.clone()
    products = []
    for change, slope, inverse in reversed(state.pairs):
        alpha = inverse * (change * q).sum(1)
        q.addcmul_(alpha[:, None], slope, value=-1)
        products.append(alpha)
    exact = bool(state.exact.any())
    tolerance = torch.where(state.exact, _EXACT_TOLERANCE, _INNER_TOLERANCE)
    r, inexact = systems.solve(q, tolerance, _EXACT_LIMIT if exact else _INNER_LIMIT)
    for (change, slope, inverse), alpha in zip(state.pairs, reversed(products), strict=True):
        beta = inverse * (slope * r).sum(1)
        r.addcmul_((alpha - beta)[:, None], change)
    bad = ~((r * state.gradient).sum(1) > 0)
    if bool(bad.any()):
        simple = systems.precondition(state.gradient)
        r = torch.where(bad[:, None], simple, r)
    return r.neg_(), inexact


def _record(out: Outcome, state: _State, step: Tensor, converged: Tensor, finished: Tensor, passes: int) -> None:
    """Results of the subsets that leave; converged ones take their last step, whose effect is known."""
    which = state.number[finished]
    taken = torch.where(converged, 1.0, 0.0)[:, None]
    out.weights[which] = torch.addcmul(state.x, taken, step.nan_to_num(0, 0, 0))[finished]
    gain = 0.5 * taken[:, 0] * (step * state.gradient).sum(1).nan_to_num(0, 0, 0)
    out.objective[which] = (state.value + gain)[finished]
    out.gradient_norm[which] = state.gradient.norm(dim=1)[finished]
    out.iterations[which] = passes
    out.converged[which] = converged[finished]
