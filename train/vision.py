"""torchvision, importable beside any torch.

PyPI's torchvision links CUDA: beside a CPU build of torch its operators cannot load, and `import torchvision` fails
at the shape functions it registers for two of them. Nothing here uses an operator, so declaring the two is enough.
"""

import sys

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

try:
    import torchvision
except RuntimeError as error:
    if "operator torchvision::" not in str(error):
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    # Kept for the life of the process: a Library takes its operators along when it goes.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _LIBRARY.define(schema)
    import torchvision

from torchvision import models  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

__all__ = ["models", "torchvision", "v2"]
