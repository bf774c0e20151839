"""Classifiers that torchvision lacks."""

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor, nn

from .vision import models


class MnistCnn(nn.Module):
    """The small classifier of the MNIST worlds (Sauer & Geiger 2021): images [N, 3, 32, 32] to logits [N, num_classes].

    As published, the average is over the first 7 x 7 of the 8 x 8 cells. Other sizes are averaged in the same way where
    one window of 7 x 7 cells fits and no second, that is from 25 to 52 px.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
        )
        self.avgpool = nn.AvgPool2d(7)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.avgpool(self.features(images)).flatten(1))
        return logits


class HalfResNet18(models.ResNet):  # type: ignore[misc]  # torchvision is not annotated
    """torchvision's ResNet-18 with half the channels in every layer: images [N, 3, H, W] to logits [N, num_classes].

    torchvision has no width for basic blocks, so that all that depends on it is made again.
    """

    def __init__(self, num_classes: int) -> None:
        block, width = models.resnet.BasicBlock, 32
        super().__init__(block, [2, 2, 2, 2], num_classes)
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._make_layer(block, width, 2)
        self.layer2 = self._make_layer(block, 2 * width, 2, stride=2)
        self.layer3 = self._make_layer(block, 4 * width, 2, stride=2)
        self.layer4 = self._make_layer(block, 8 * width, 2, stride=2)
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


OWN_ARCHS: Final[Mapping[str, Callable[[int], nn.Module]]] = {
    "mnist-cnn": MnistCnn,
    "resnet18-half": HalfResNet18,
}
