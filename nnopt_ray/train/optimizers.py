"""Optimizers: how a gradient changes the weights, with the numbers of torch.optim.

All trainable weights of a network are one flat float32 tensor, and so is their gradient; an optimizer
is one fused kernel, or a few element-wise operations, on whole tensors. Several networks trained side
by side are rows of a [lanes, weights] block: each row is updated by its own Optimizer object with its
own keys, which keeps a lane's numbers those of the network trained alone. It costs no more than one set
of operations with a [lanes, 1] rate: Adam on 11 rows of 9,000 weights, one CPU core, takes 132 µs row by
row in the fused kernel and 216 µs as block operations.

Adam, AdamW and SGD call the kernels behind torch.optim's `fused=True` directly (`torch._fused_adam_`):
for one tensor of 9,000 weights 12 µs against 59 µs of the unfused operations, and without the 30 µs of
torch.optim's own bookkeeping. Their numbers are bitwise those of torch.optim with fused=True on the flat
tensor; from foreach=False and one tensor a layer they differ in the last digits (1e-6 after 60 steps).
RMSprop, which torch has no fused kernel for, is bitwise torch.optim's with foreach=False.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Tiny = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Optimizer:
    """Base of all optimizers. An object holds the keys and no state: state lives in `slots`.

    `lr` is the base learning rate; a schedule multiplies it step by step. `elementwise`: each weight is updated
    by itself, so `update` may be called for some of them, and for those that are not to decay on a copy of the
    optimizer with a `weight_decay` of 0.
    """

    lr: float
    weight_decay: float = 0.0
    elementwise: ClassVar[bool] = False
    slot_names: ClassVar[tuple[str, ...]] = ()

    def slots(self, weights: Tensor) -> dict[str, Tensor]:
        """Fresh state for flat weights [P]: one zero tensor [P] per name of `slot_names`."""
        return {name: weights.new_zeros(weights.shape) for name in self.slot_names}

    def update(self, weights: Tensor, gradient: Tensor, slots: Mapping[str, Tensor], step: int, lr: float) -> None:
        """One step in place: float32 weights [P] by gradient [P], which may be overwritten.

        `step` counts from 1; `lr` is the learning rate of this step.
        """
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (torch.optim.SGD; Sutskever et al. 2013 for Nesterov's form).

    Keys:
        lr: learning rate.
        momentum: share of the last update that is kept; 0 is plain gradient descent.
        dampening: share of the gradient that is kept out of the momentum.
        nesterov: look ahead along the momentum; needs momentum above 0 and no dampening.
        weight_decay: L2 penalty, added to the gradient as weight_decay * weights.
    """

    elementwise = True

    def __init__(
        self,
        *,
        lr: Rate = 1e-3,
        momentum: Decay = 0.0,
        dampening: Annotated[float, Field(ge=0, le=1)] = 0.0,
        nesterov: bool = False,
        weight_decay: Rate = 0.0,
    ) -> None:
        from nnopt_ray.errors import PartError

        if nesterov and (momentum == 0 or dampening != 0):
            raise PartError("sgd: nesterov needs a momentum above 0 and a dampening of 0.")
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay

    def slots(self, weights: Tensor) -> dict[str, Tensor]:
        return {"momentum": weights.new_zeros(weights.shape)} if self.momentum else {}

    def update(self, weights: Tensor, gradient: Tensor, slots: Mapping[str, Tensor], step: int, lr: float) -> None:
        import torch

        torch._fused_sgd_(
            [weights],
            [gradient],
            [slots["momentum"]] if self.momentum else [],
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=self.dampening,
            nesterov=self.nesterov,
            maximize=False,
            is_first_step=step == 1,  # the first gradient enters the momentum without dampening
        )


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015; torch.optim.Adam).

    Keys:
        lr: learning rate.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient as weight_decay * weights.
    """

    elementwise = True
    slot_names = ("mean", "square")

    def __init__(
        self,
        *,
        lr: Rate = 1e-3,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: Tiny = 1e-8,
        weight_decay: Rate = 0.0,
    ) -> None:
        self.lr, self.beta1, self.beta2, self.eps, self.weight_decay = lr, beta1, beta2, eps, weight_decay

    def slots(self, weights: Tensor) -> dict[str, Tensor]:
        # The kernel reads the step from a tensor on the device of the weights.
        return {**super().slots(weights), "step": weights.new_zeros(())}

    def update(self, weights: Tensor, gradient: Tensor, slots: Mapping[str, Tensor], step: int, lr: float) -> None:
        import torch

        self._apply(torch._fused_adam_, weights, gradient, slots, step, lr)

    def _apply(
        self,
        kernel: object,
        weights: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        step: int,
        lr: float,
    ) -> None:
        assert callable(kernel)
        kernel(
            [weights],
            [gradient],
            [slots["mean"]],
            [slots["square"]],
            [],
            [slots["step"].fill_(step)],
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov & Hutter 2019; torch.optim.AdamW).

    Keys:
        lr: learning rate.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        eps: added to the denominator.
        weight_decay: share lr * weight_decay of the weights that each step takes away.
    """

    def __init__(
        self,
        *,
        lr: Rate = 1e-3,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: Tiny = 1e-8,
        weight_decay: Rate = 1e-2,
    ) -> None:
        super().__init__(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def update(self, weights: Tensor, gradient: Tensor, slots: Mapping[str, Tensor], step: int, lr: float) -> None:
        import torch

        self._apply(torch._fused_adamw_, weights, gradient, slots, step, lr)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5; torch.optim.RMSprop, bitwise).

    Keys:
        lr: learning rate.
        alpha: decay of the running mean of squared gradients.
        momentum: share of the last update that is kept.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient as weight_decay * weights.
        centered: divide by the gradient's deviation instead of its root mean square.
    """

    elementwise = True

    def __init__(
        self,
        *,
        lr: Rate = 1e-2,
        alpha: Decay = 0.99,
        momentum: Decay = 0.0,
        eps: Tiny = 1e-8,
        weight_decay: Rate = 0.0,
        centered: bool = False,
    ) -> None:
        self.lr, self.alpha, self.momentum = lr, alpha, momentum
        self.eps, self.weight_decay, self.centered = eps, weight_decay, centered

    def slots(self, weights: Tensor) -> dict[str, Tensor]:
        names = ["square", *(["mean"] if self.centered else []), *(["momentum"] if self.momentum else [])]
        return {name: weights.new_zeros(weights.shape) for name in names}

    def update(self, weights: Tensor, gradient: Tensor, slots: Mapping[str, Tensor], step: int, lr: float) -> None:
        if self.weight_decay:
            gradient.add_(weights, alpha=self.weight_decay)
        square = slots["square"].mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
        if self.centered:
            mean = slots["mean"].lerp_(gradient, 1 - self.alpha)
            root = square.addcmul(mean, mean, value=-1).sqrt_().add_(self.eps)
        else:
            root = square.sqrt().add_(self.eps)
        if self.momentum:
            buffer = slots["momentum"].mul_(self.momentum).addcdiv_(gradient, root)
            weights.add_(buffer, alpha=-lr)
        else:
            weights.addcdiv_(gradient, root, value=-lr)
