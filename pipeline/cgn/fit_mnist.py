"""Train the MNIST form: an LSGAN (Mao et al. 2017) whose generator is three mechanisms and a composition."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...manifests.randomness import Permutation, integers_below, normal, random_words
from ..networks.kernels import repeatable_kernels
from .composition import compose
from .fit import check_finite, draw_grid
from .losses import Features, lsgan_discriminator_loss, lsgan_generator_loss, mask_entropy, style_loss
from .mechanisms import WEIGHTS_NAME
from .mnist_form import RESOLUTION, MnistCgn, one_hot
from .settings import MnistFit

# Pictures of one epoch: images [N, 32, 32, 3] uint8 and class labels [N].
Epoch = Callable[[int], tuple[NDArray[np.uint8], NDArray[np.int64]]]


class LinearDiscriminator(nn.Module):
    """Pixels and an embedded label through four layers, to how real a picture looks [N]."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(num_classes, num_classes)
        self.model = nn.Sequential(
            nn.Linear(num_classes + 3 * RESOLUTION**2, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def forward(self, images: Tensor, class_labels: Tensor) -> Tensor:
        validity: Tensor = self.model(torch.cat([images.flatten(1), self.label_embedding(class_labels)], 1))
        return validity.squeeze(1)


class ConvolutionalDiscriminator(nn.Module):
    """A picture with its embedded label as a fourth channel, to how real it looks [N]."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(num_classes, 1)
        layers: list[nn.Module] = []
        sizes = ((4, width, 3, 1), (width, 2 * width, 3, 1), (2 * width, 4 * width, 4, 2), (4 * width, 4 * width, 4, 2))
        for inputs, outputs, kernel, stride in sizes:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.AvgPool2d(3), nn.Conv2d(4 * width, 1, 1, bias=False))
        self.apply(partial(initialise, init="normal", gain=0.02))

    def forward(self, images: Tensor, class_labels: Tensor) -> Tensor:
        label = self.label_embedding(class_labels)[:, :, None, None].expand(-1, 1, *images.shape[-2:])
        validity: Tensor = self.model(torch.cat([images, label], 1))
        return validity.flatten()


def initialise(module: nn.Module, init: str, gain: float) -> None:
    """The official initialisation of one module: of linear layers, convolutions and batch norms in two dimensions."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        if init == "orthogonal":
            nn.init.orthogonal_(module.weight, gain)
        else:
            nn.init.normal_(module.weight, 0.0, gain)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, gain)
        nn.init.zeros_(module.bias)


class MnistLearner:
    """The learner of `fit` for this form. Order, latents, labels and windows are keyed by seed and update."""

    def __init__(
        self, settings: MnistFit, epoch: Epoch, num_classes: int, features: Features, device: str = "cpu"
    ) -> None:
        self.settings, self.features, self.device = settings, features, device
        self._make_epoch, self._epoch_number = epoch, 0
        self._pictures = epoch(0)
        self.num_classes = num_classes
        self.steps_an_epoch = -(-len(self._pictures[1]) // settings.batch_size)
        self.steps = settings.epochs * self.steps_an_epoch
        kinds = {"linear": LinearDiscriminator, "convolutional": ConvolutionalDiscriminator}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)  # the layers' own initialisation offers no generator argument
            self.networks = MnistCgn(num_classes)
            self.networks.apply(partial(initialise, init=settings.init, gain=settings.gain))
            self.discriminator = kinds[settings.discriminator](num_classes, settings.width)
        self.networks.to(device)
        self.discriminator.to(device)
        betas = settings.betas[0], settings.betas[1]
        self.optimizer = torch.optim.Adam(self.networks.parameters(), settings.lr, betas)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), settings.lr, betas)
        self.parts: Mapping[str, Any] = {
            "networks": self.networks,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "optimizer of the discriminator": self.optimizer_d,
        }

    def learn(self, step: int) -> dict[str, float]:
        settings = self.settings
        real, real_labels = self._read(step)
        count = len(real_labels)
        latents, labels, windows = self._draw("batches", step, count)
        cuda = [torch.device(self.device)] if torch.device(self.device).type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), repeatable_kernels():
            # For dropout, which offers no generator argument.
            torch.manual_seed(int(random_words(settings.seed, "fit-cgn dropout", step, count=1)[0] >> np.uint64(1)))
            with torch.autocast("cuda", torch.bfloat16, enabled=bool(cuda) and settings.precision == "bf16"):
                mask, generated = self._generate(latents, labels, windows)
                losses = {
                    "adversarial": lsgan_generator_loss(self.discriminator(generated, labels).float()),
                    "binary": settings.binary * mask_entropy(mask.float()),
                    "style": style_loss(self.features, generated.float(), real, settings.style),
                }
            numbers = check_finite(losses, step)
            self.optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            with torch.autocast("cuda", torch.bfloat16, enabled=bool(cuda) and settings.precision == "bf16"):
                validity = self.discriminator(real, real_labels), self.discriminator(generated.detach(), labels)
                loss = lsgan_discriminator_loss(validity[0].float(), validity[1].float())
            numbers |= check_finite({"discriminator": loss}, step)
            self.optimizer_d.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer_d.step()
        means = mask.detach().float().mean((1, 2, 3))
        return {
            **numbers,
            "mask mean": float(means.mean()),
            "mask spread": float(means.std(unbiased=False)),
            "mask entropy": numbers["binary"] / (settings.binary or 1.0),
        }

    def draw_sheet(self) -> NDArray[np.uint8]:
        """A column a class; rows: mask, texture, background, composition, and a counterfactual with the texture of the
        class 3 further on and the background of the one 7 further on."""
        labels = torch.arange(self.num_classes, device=self.device)
        latents, _, windows = self._draw("sheet", 0, self.num_classes)
        vectors = one_hot(labels, self.num_classes)
        self.networks.eval()
        with torch.no_grad():
            mask = self.networks.shape(latents, vectors)
            foreground = self.networks.texture(latents, vectors, windows[0])
            background = self.networks.background(latents, vectors, windows[1])
            other = self.networks.texture(latents, vectors.roll(-3, 0), windows[0])
            place = self.networks.background(latents, vectors.roll(-7, 0), windows[1])
        self.networks.train()
        rows = [mask * 2 - 1, foreground, background, compose(mask, foreground, background)]
        return draw_grid([*rows, compose(mask, other, place)])

    def save(self, out: Path) -> None:
        """Write `cgn.pth` in the official layout."""
        torch.save(
            {name: value.cpu().clone() for name, value in self.networks.state_dict().items()}, out / WEIGHTS_NAME
        )

    def _generate(self, latents: Tensor, labels: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        vectors = one_hot(labels, self.num_classes)
        mask = self.networks.shape(latents, vectors)
        foreground = self.networks.texture(latents, vectors, windows[0])
        background = self.networks.background(latents, vectors, windows[1])
        return mask, compose(mask, foreground, background)

    def _read(self, step: int) -> tuple[Tensor, Tensor]:
        """The real batch of an update."""
        epoch, position = divmod(step, self.steps_an_epoch)
        if epoch != self._epoch_number:
            self._pictures, self._epoch_number = self._make_epoch(epoch), epoch
        images, labels = self._pictures
        size = self.settings.batch_size
        places = np.arange(position * size, min((position + 1) * size, len(labels)))
        rows = Permutation(len(labels), self.settings.seed, f"fit-cgn epoch {epoch}")(places)
        pictures = torch.from_numpy(images[rows]).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return pictures, torch.from_numpy(labels[rows]).to(self.device)

    def _draw(self, name: str, step: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, labels, and the windows [2, N, 2] of texture and background."""
        z_dim = self.networks.z_dim
        words = random_words(self.settings.seed, f"fit-cgn {name}", step, count=count * (z_dim + 5)).reshape(count, -1)
        latents = torch.from_numpy(normal(words[:, :z_dim])).float()
        labels = torch.from_numpy(integers_below(self.num_classes, words[:, z_dim]))
        windows = torch.from_numpy(integers_below(RESOLUTION + 1, words[:, z_dim + 1 :])).reshape(count, 2, 2)
        return latents.to(self.device), labels.to(self.device), windows.transpose(0, 1).to(self.device)
