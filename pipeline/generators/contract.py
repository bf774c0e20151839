"""The contract of a generator of one's own: what a class has to have, so that everything else works with it."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Generator(Protocol):
    """A `torch.nn.Module` that has these. Its class is called with what config.json holds, as keyword arguments.

    Then its state dict, pytorch_model.bin beside config.json, must fit exactly. It is put into eval mode, copied to
    the worker's device and, where the recipe says so, turned into bfloat16. Any of its submodules, by the name that
    `named_modules` has for it, can be the recipe's `directions.layer`: exactly where its output is linear in the
    latents, by samples of its output (one tensor, its first dimension that of the latents) else.
    """

    z_dim: int  # numbers of a latent; latents are normal, cut at 2 and scaled by the stream's truncation
    num_classes: int
    resolution: int  # height and width of an image

    def __call__(self, latents: "Tensor", class_labels: "Tensor") -> "Tensor":
        """Images [N, 3, resolution, resolution] in [-1, 1].

        latents: [N, z_dim], of the dtype of the weights. class_labels: int64 [N]. An image must depend on its own
        latent and label alone: no randomness, and no statistics of the batch.
        """
