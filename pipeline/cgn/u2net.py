"""U2-Net (Qin et al. 2020): finds the salient object of a picture; names and shapes are those of the published file."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Convolution(nn.Module):
    """Dilated 3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn_s1(self.conv_s1(x)), inplace=True)


class _ResidualU(nn.Module):
    """A U-Net with a residual around it: one convolution a level down, one a level up (the paper's RSU-L).

    Levels but the last one are pooled in between, or, where `pooled` is false, see farther by dilation (RSU-4F).
    """

    def __init__(self, inputs: int, middle: int, outputs: int, dilations: tuple[int, ...], pooled: bool = True) -> None:
        super().__init__()
        self.pooled = pooled
        self.depth = len(dilations)
        self.rebnconvin = _Convolution(inputs, outputs)
        for level, dilation in enumerate(dilations, 1):
            self.add_module(f"rebnconv{level}", _Convolution(outputs if level == 1 else middle, middle, dilation))
        for level, dilation in enumerate(dilations[:-1], 1):
            convolution = _Convolution(2 * middle, outputs if level == 1 else middle, dilation)
            self.add_module(f"rebnconv{level}d", convolution)

    def forward(self, x: Tensor) -> Tensor:
        entry: Tensor = self.rebnconvin(x)
        x = entry
        passed = []
        for level in range(1, self.depth):
            x = self.get_submodule(f"rebnconv{level}")(x)
            passed.append(x)
            if self.pooled and level < self.depth - 1:
                x = _halve(x)
        x = self.get_submodule(f"rebnconv{self.depth}")(x)
        for level in range(self.depth - 1, 0, -1):
            skip = passed[level - 1]
            x = self.get_submodule(f"rebnconv{level}d")(torch.cat([_match(x, skip), skip], 1))
        return x + entry


def _residual_u(depth: int, inputs: int, middle: int, outputs: int) -> _ResidualU:
    return _ResidualU(inputs, middle, outputs, (*[1] * (depth - 1), 2))


def _dilated_u(inputs: int, middle: int, outputs: int) -> _ResidualU:
    return _ResidualU(inputs, middle, outputs, (1, 2, 4, 8), pooled=False)


class U2Net(nn.Module):
    """The full network, 44.0 M parameters: pictures [N, 3, H, W] to logits of its fused map [N, 1, H, W]."""

    STAGES = 6

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = _residual_u(7, 3, 32, 64)
        self.stage2 = _residual_u(6, 64, 32, 128)
        self.stage3 = _residual_u(5, 128, 64, 256)
        self.stage4 = _residual_u(4, 256, 128, 512)
        self.stage5 = _dilated_u(512, 256, 512)
        self.stage6 = _dilated_u(512, 256, 512)
        self.stage5d = _dilated_u(1024, 256, 512)
        self.stage4d = _residual_u(4, 1024, 128, 256)
        self.stage3d = _residual_u(5, 512, 64, 128)
        self.stage2d = _residual_u(6, 256, 32, 64)
        self.stage1d = _residual_u(7, 128, 16, 64)
        for stage, channels in enumerate((64, 64, 128, 256, 512, 512), 1):
            self.add_module(f"side{stage}", nn.Conv2d(channels, 1, 3, padding=1))
        self.outconv = nn.Conv2d(self.STAGES, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        passed = []
        for stage in range(1, self.STAGES + 1):
            x = self.get_submodule(f"stage{stage}")(x if stage == 1 else _halve(x))
            passed.append(x)
        decoded = [x]  # stages 6 to 1
        for stage in range(self.STAGES - 1, 0, -1):
            skip = passed[stage - 1]
            x = self.get_submodule(f"stage{stage}d")(torch.cat([_match(x, skip), skip], 1))
            decoded.append(x)
        sides = [
            _match(self.get_submodule(f"side{stage}")(decoded[-stage]), images) for stage in range(1, self.STAGES + 1)
        ]
        fused: Tensor = self.outconv(torch.cat(sides, 1))
        return fused


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)


def _match(x: Tensor, other: Tensor) -> Tensor:
    """x at the height and width of `other`, which need no power of two."""
    if x.shape[-2:] == other.shape[-2:]:
        return x
    return F.interpolate(x, other.shape[-2:], mode="bilinear", align_corners=False)
