"""The small classifier of the MNIST worlds (Sauer & Geiger 2021)."""

from torch import Tensor, nn


class MnistCnn(nn.Module):
    """Images [N, 3, 32, 32] to logits [N, num_classes].

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
