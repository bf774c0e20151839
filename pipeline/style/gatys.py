"""Style transfer by optimisation (Gatys, Ecker & Bethge 2016): many images at once, each as if it were alone."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ..networks.kernels import repeatable_kernels
from .vgg import Vgg

CONTENT_LAYER = 3  # conv_4; style is taken at all five

# As in torch.optim.LBFGS: pairs kept, least curvature y.s of a pair, least descent of a move.
HISTORY = 100
LEAST_CURVATURE = 1e-10
LEAST_DESCENT = 1e-9


@dataclass(frozen=True)
class LossWeights:
    """Factors of the two losses; the released ones suit torchvision's VGG-19, whose activations are large."""

    content: float = 0.1
    style: float = 1e6


RELEASED = LossWeights()


@dataclass(frozen=True)
class Pair:
    """One image to make. content, style: [3, H, W] in [0, 1]; evaluations: of loss and gradient, at least 1."""

    content: Tensor
    style: Tensor
    evaluations: int


@dataclass(frozen=True)
class Transferred:
    """A finished image [3, H, W] in [0, 1] with its own weighted losses; `position` is that of its pair.

    first_loss: both losses of the content, from which the optimisation began.
    """

    position: int
    image: Tensor
    content_loss: float
    style_loss: float
    first_loss: float

    @property
    def diverged(self) -> bool:
        """Without a line search, some images end further from what was asked for than they began."""
        return self.content_loss + self.style_loss > self.first_loss


@dataclass(frozen=True)
class Targets:
    """What images [N] are to match: features of the contents and Gram matrices of the styles."""

    content: Tensor
    grams: tuple[Tensor, ...]


def gram_matrix(features: Tensor) -> Tensor:
    """F F^T / (C H W) of features [N, C, H, W], in float32 or better."""
    flat = features.flatten(2)
    if flat.dtype == torch.bfloat16:
        flat = flat.float()  # three digits would hide what is left to match
    return flat @ flat.mT / flat[0].numel()


def find_targets(network: Vgg, contents: Tensor, styles: Tensor) -> Targets:
    """Targets of contents and styles [N, 3, H, W]."""
    with torch.no_grad(), repeatable_kernels():
        content = next(islice(network(contents), CONTENT_LAYER, None))
        return Targets(content, tuple(gram_matrix(features) for features in network(styles)))


def evaluation_flop(network: Vgg, side: int) -> float:
    """FLOP of one evaluation of an image of `side` pixels: convolutions and Gram matrices, each forward and back."""
    flop, area = 0.0, float(side**2)
    for weight, pooled in zip(network.weights, (*network.pooled, False), strict=True):
        flop += 4 * area * (weight.numel() + len(weight) ** 2)
        area /= 4 if pooled else 1
    return flop


def transfer_losses(
    network: Vgg, images: Tensor, targets: Targets, weights: LossWeights = RELEASED
) -> tuple[Tensor, Tensor]:
    """Weighted content and style loss [N] of images [N, 3, H, W], each of its image alone."""
    content, style = [], []
    for layer, (features, gram) in enumerate(zip(network(images), targets.grams, strict=True)):
        if layer == CONTENT_LAYER:
            content.append((features - targets.content).to(gram.dtype).square().flatten(1).mean(1))
        style.append((gram_matrix(features) - gram).square().flatten(1).mean(1))
    return weights.content * content[0], weights.style * torch.stack(style).sum(0)


def transfer_styles(
    network: Vgg, pairs: Iterable[Pair], num_slots: int, weights: LossWeights = RELEASED, keep_best: bool = False
) -> Iterator[Transferred]:
    """Optimise pairs in a batch of `num_slots`, yielding each image when it has had its evaluations.

    A finished image leaves, and the next pair takes its slot: which pair is in which slot when is a function of the
    evaluation counts alone. Slots without a pair go on computing, so that the batch, and with it the floating point,
    keeps its shape. An image that was last evaluated is the one that is yielded: its losses are its own. (The released
    loop moves once more after its last evaluation: an image of n evaluations there is one of n + 1 here.) With
    `keep_best`, it is the image of the smallest loss among an image's evaluations.

    Memory an image at 256 px with VGG-19 in fp32: 300 MB for activations and their gradients (one slot on a CPU,
    measured), and 1.6 MB for each evaluation of the longest optimisation (its pairs of L-BFGS): 410 MB at 70.
    """
    queue = iter(enumerate(pairs))
    first = next(queue, None)
    if first is None:
        return
    waiting: tuple[int, Pair] | None = first
    images = torch.zeros(num_slots, *first[1].content.shape).to(first[1].content)
    targets = find_targets(network, images, images)
    positions, left = [0] * num_slots, [0] * num_slots
    firsts = images.new_full((num_slots,), torch.nan)
    kept: _Evaluated | None = None
    descent = BatchedLbfgs(num_slots)
    while True:
        # Refill.
        for slot in range(num_slots):
            if left[slot] == 0 and waiting is not None:
                positions[slot], pair = waiting
                images[slot], left[slot] = pair.content, pair.evaluations
                own = find_targets(network, pair.content[None], pair.style[None])
                for target, value in zip((targets.content, *targets.grams), (own.content, *own.grams), strict=True):
                    target[slot] = value[0]
                descent.restart(slot)
                firsts[slot] = torch.nan
                waiting = next(queue, None)
        if not any(left):
            return
        # Evaluate.
        with torch.enable_grad(), repeatable_kernels():
            variables = images.requires_grad_()
            content, style = transfer_losses(network, variables, targets, weights)
            (gradient,) = torch.autograd.grad((content + style).sum(), variables)
        images = images.detach()
        now = _Evaluated(images, content.detach(), style.detach())
        is_first = firsts.isnan()
        firsts = torch.where(is_first, now.loss, firsts)
        if keep_best:
            kept = now if kept is None else kept
            kept = kept.replaced(is_first | (now.loss < kept.loss), now)
        else:
            kept = now
        # Leave or move.
        for slot in range(num_slots):
            if left[slot] == 1:
                yield Transferred(
                    positions[slot],
                    kept.images[slot].clone(),
                    kept.content[slot].item(),
                    kept.style[slot].item(),
                    firsts[slot].item(),
                )
            left[slot] = max(left[slot] - 1, 0)
        move = descent.move(gradient.flatten(1))
        images = images.add_(move.view_as(images)).clamp_(0, 1)


@dataclass(frozen=True)
class _Evaluated:
    """Images [N, 3, H, W] and their weighted losses [N]."""

    images: Tensor
    content: Tensor
    style: Tensor

    @property
    def loss(self) -> Tensor:
        return self.content + self.style

    def replaced(self, rows: Tensor, other: "_Evaluated") -> "_Evaluated":
        """The same with `rows` [N] of another, without waiting for the device."""
        return _Evaluated(
            torch.where(rows[:, None, None, None], other.images, self.images),
            torch.where(rows, other.content, self.content),
            torch.where(rows, other.style, self.style),
        )


@dataclass(frozen=True)
class _CurvaturePair:
    """s and y [N, D] of one move of every row, and 1 / y.s [N]: 0 where the row has no such pair."""

    s: Tensor
    y: Tensor
    rho: Tensor


class BatchedLbfgs:
    """L-BFGS with unit steps (torch.optim.LBFGS, lr 1, no line search), for every row of a batch by itself.

    Rows share the time of an operation and nothing else: inner products are taken per row. An evaluation is never
    repeated, where torch's goes back to the same point at the end of an outer step that made no progress.
    """

    def __init__(self, rows: int) -> None:
        self._pairs: deque[_CurvaturePair] = deque(maxlen=HISTORY)
        self._ages = [0] * rows
        self._gradient: Tensor | None = None

    def restart(self, row: int) -> None:
        """Forget a row's past: the next gradient is its first."""
        self._ages[row] = 0
        if self._gradient is not None:
            for state in (self._gradient, self._move, *(t for pair in self._pairs for t in (pair.s, pair.y, pair.rho))):
                # Not only 1 / y.s: what diverged would come back as 0 * inf.
                state[row] = 0
            self._scale[row] = 1

    def move(self, gradient: Tensor) -> Tensor:
        """What to add to each row, given the gradient [N, D] where it stands."""
        if self._gradient is None:
            self._gradient = torch.zeros_like(gradient)
            self._move = torch.zeros_like(gradient)
            self._scale = gradient.new_ones(len(gradient))
        self._remember(gradient)
        direction = self._direction(gradient)
        is_first = torch.tensor([age == 0 for age in self._ages], device=gradient.device)
        step = torch.where(is_first, (1 / gradient.abs().sum(1)).clamp(max=1), self._scale.new_ones(()))
        step = torch.where(_dot(gradient, direction) > -LEAST_DESCENT, 0, step)
        self._gradient = gradient
        self._move = direction.mul_(step[:, None])
        self._ages = [age + 1 for age in self._ages]
        return self._move

    def _remember(self, gradient: Tensor) -> None:
        # Pairs older than every row belong to images that have left.
        while len(self._pairs) >= max(1, *self._ages):
            self._pairs.popleft()
        if not any(self._ages):
            return
        assert self._gradient is not None
        y, s = gradient - self._gradient, self._move
        curvature = _dot(y, s)
        is_kept = curvature > LEAST_CURVATURE
        self._pairs.append(_CurvaturePair(s, y, torch.where(is_kept, 1 / curvature, 0)))
        self._scale = torch.where(is_kept, curvature / _dot(y, y), self._scale)

    def _direction(self, gradient: Tensor) -> Tensor:
        """Two-loop recursion (Nocedal 1980)."""
        q = -gradient
        alphas = []
        for pair in reversed(self._pairs):
            alpha = pair.rho * _dot(pair.s, q)
            q.addcmul_(pair.y, -alpha[:, None])
            alphas.append(alpha)
        direction = q.mul_(self._scale[:, None])
        for pair, alpha in zip(self._pairs, reversed(alphas), strict=True):
            beta = pair.rho * _dot(pair.y, direction)
            direction.addcmul_(pair.s, (alpha - beta)[:, None])
        return direction


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [N] of the rows of [N, D]."""
    if a.device.type == "cpu":
        # Batched products of single rows are six times slower there, measured.
        return torch.stack([row_a.dot(row_b) for row_a, row_b in zip(a, b, strict=True)])
    return (a * b).sum(1)
