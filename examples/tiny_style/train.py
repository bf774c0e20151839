"""Train TinyStyle on the mini world's confounded pictures, as the decoder of a conditional variational autoencoder.

Writes the two files that genint reads: config.json, what TinyStyle is called with, and pytorch_model.bin, its weights.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from genint.manifests.world import CLASSES, IMAGE_SIZE
from genint.pipeline.mini.world import compose_pictures
from tiny_style import TinyStyle
from torch import Tensor, nn

CONFIG = {"z_dim": 32, "num_classes": len(CLASSES), "resolution": IMAGE_SIZE, "width": 64}
BATCH = 64
KL_WEIGHT = 4e-4  # of the divergence from the normal distribution, by pixel value
RATE = 2e-3


class Encoder(nn.Module):
    """Means and log variances [N, z_dim] of the latents of pictures; of no use after training."""

    def __init__(self, z_dim: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(num_classes, 128)
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(128 * 16, 128),
        )  # fmt: skip
        self.last = nn.Sequential(nn.LeakyReLU(0.2), nn.Linear(128, 2 * z_dim))

    def forward(self, images: Tensor, class_labels: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.last(self.convolutions(images) + self.classes(class_labels)).chunk(2, dim=1)
        return mean, log_variance


def train(steps: int, pictures: int) -> TinyStyle:
    """The decoder after so many steps on the first of the world's training pictures."""
    torch.manual_seed(0)
    found = compose_pictures("train", np.arange(pictures))
    images = torch.from_numpy(found.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(found.class_labels)
    decoder, encoder = TinyStyle(**CONFIG), Encoder(CONFIG["z_dim"], CONFIG["num_classes"])
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    started = time.monotonic()
    for step in range(1, steps + 1):
        picks = torch.randint(pictures, (BATCH,))
        mean, log_variance = encoder(images[picks], labels[picks])
        latents = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        error = (decoder(latents, labels[picks]) - images[picks]).abs().mean()
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        optimizer.zero_grad()
        (error + KL_WEIGHT * divergence).backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(
                f"step {step} of {steps}: error {error:.3f}, {divergence:.1f} nats, {time.monotonic() - started:.0f} s"
            )
    return decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder for config.json and pytorch_model.bin.")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=12_000)
    arguments = parser.parse_args()
    decoder = train(arguments.steps, arguments.pictures)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "config.json").write_text(json.dumps({**CONFIG, "class_names": CLASSES}, indent=2) + "\n")
    torch.save(decoder.state_dict(), arguments.out / "pytorch_model.bin")
    print(f"wrote {arguments.out / 'config.json'} and {arguments.out / 'pytorch_model.bin'}")


if __name__ == "__main__":
    main()
