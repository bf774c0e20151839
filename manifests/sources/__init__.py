"""The registry of sources.

A new kind of stream is one module here, one in pipeline/sources, and a line in each registry.
"""

from typing import Annotated

from pydantic import Field

from .counterfactual import CounterfactualStream
from .generated import InterventionalStream, ObservationalStream
from .mini_world import MiniWorldStream
from .mnist import ColoredMnistStream, DoubleColoredMnistStream, WildlifeMnistStream
from .natural import ImportedStream, NaturalStream
from .recomposed import RecomposedStream
from .transfer import StylizedStream, TransferStream

AnyStream = Annotated[
    NaturalStream
    | ImportedStream
    | MiniWorldStream
    | ColoredMnistStream
    | DoubleColoredMnistStream
    | WildlifeMnistStream
    | ObservationalStream
    | InterventionalStream
    | TransferStream
    | StylizedStream
    | CounterfactualStream
    | RecomposedStream,
    Field(discriminator="source"),
]
