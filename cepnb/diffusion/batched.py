"""Several training seeds in one model: their networks as one with an axis of seeds in front, their batches side by side.

It is meant for GPUs, of which a step of one small network fills a small part. On a processor it takes as long as one seed
after the other, or longer.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from cepnb.diffusion.streams import Streams
from cepnb.diffusion.training import Examples, Module, StepLoss


class Stacked(nn.Module):
    """S networks of one shape as one: inputs of shape (S, ...) give the outputs (S, ...), each from its own weights.

    Weights and buffers have the names that they have in one network, and S in front of their shape. Adam works on each
    number by itself, so that one Adam on these does what S would do.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count, self.net = len(nets), deepcopy(nets[0])
        for own, *others in zip(*(_tensors(net) for net in (self.net, *nets)), strict=True):
            own.data = torch.stack([other.detach() for other in others])

    def forward(self, *inputs: Tensor) -> Tensor:
        weights = dict(chain(self.net.named_parameters(), self.net.named_buffers()))
        return vmap(lambda own, *values: functional_call(self.net, own, values))(weights, *inputs)

    def parts(self) -> list[nn.Module]:
        """The S networks, each on its own, with the weights of now."""
        nets = [deepcopy(self.net) for _ in range(self.count)]
        for index, net in enumerate(nets):
            for tensor in _tensors(net):
                tensor.data = tensor.detach()[index].clone()
        return nets


def together(nets: Sequence[Module]) -> Module | Stacked:
    """The networks of several seeds as one; of a single seed the network itself."""
    return Stacked(nets) if len(nets) > 1 else nets[0]


def apart(net: nn.Module) -> list[nn.Module]:
    """The networks that `together` was given, with the weights of now."""
    return net.parts() if isinstance(net, Stacked) else [net]


def loss_together(errors: Callable[..., Tensor], examples: Sequence[Examples]) -> StepLoss:
    """The loss of a step of several seeds, each drawing its own examples from its own of the `Streams`.

    `errors` gives from what was drawn, with an axis of seeds in front, one value for each seed and example, (S, batch, ...).
    Their sum over the seeds is returned: its mean over the batch has the gradient, and as a loss it is the sum, of S steps.
    """
    if len(examples) == 1:
        (alone,) = examples
        return lambda streams: errors(*alone(*streams))

    def step_loss(streams: Streams) -> Tensor:
        drawn = [own(generator) for own, generator in zip(examples, streams, strict=True)]
        return errors(*(torch.stack(values) for values in zip(*drawn, strict=True))).sum(dim=0)

    return step_loss


def _tensors(net: nn.Module) -> chain[Tensor]:
    return chain(net.parameters(), net.buffers())
