"""In one's own code: the samples of a dataset, and directions to save, load and apply. Needs no torch.

The names in `__all__` stay: one that has to change is announced in the CHANGELOG and works for another release.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .directions import Directions, coordinates, first_directions, intervene, load_directions, save_directions
from .errors import FormatError, GenintError, UsageError, shorten
from .json_files import parse_json

if TYPE_CHECKING:
    from PIL import Image

    from .samples import StreamSamples

__all__ = [
    "DatasetSample",
    "DatasetStream",
    "Directions",
    "FormatError",
    "GenintError",
    "UsageError",
    "coordinates",
    "first_directions",
    "intervene",
    "load_directions",
    "open_stream",
    "save_directions",
]


@dataclass(frozen=True, eq=False)
class DatasetSample:
    """One sample of a stream.

    parameters: its json, all that makes it again. members: what else is stored with it, such as `mask.png`, encoded, by
    extension.
    """

    key: str
    image: "Image.Image"  # RGB
    class_label: int
    class_name: str
    parameters: Mapping[str, Any]
    members: Mapping[str, bytes]


class DatasetStream:
    """Samples of one stream by position: a sequence, and so a map-style dataset for torch's `DataLoader` too.

    Each shard is compared with its record before its first sample is read.
    """

    def __init__(self, samples: "StreamSamples") -> None:
        self._samples = samples
        self.name: str = samples.entry.name
        self.class_names: tuple[str, ...] = tuple(samples.entry.class_names)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> DatasetSample:
        """Raises IndexError past the end, FormatError that names the shard or sample which cannot be read."""
        from .pictures import decode_picture

        if position < 0:
            position += len(self)
        members = self._samples.read(position)
        key = self._samples.key(position)
        where = f"{self._samples.storage}: stream {self.name}: sample {key}"
        extension = self._samples.entry.image_extension
        for name in (extension, "cls", "json"):
            if name not in members:
                raise FormatError(f"{where}: has no .{name}")
        text = members.pop("cls")
        # As many digits as the pipeline writes: int() takes longer ones of anybody.
        label = int(text) if text.isdigit() and len(text) <= 6 else len(self.class_names)
        if label >= len(self.class_names):
            raise FormatError(f"{where}: label {shorten(repr(text))}; expected a number below {len(self.class_names)}")
        parameters = parse_json(members.pop("json"), where)
        if not isinstance(parameters, dict):
            raise FormatError(f"{where}: parameters are {shorten(repr(parameters))}; expected an object")
        image = decode_picture(members.pop(extension), where)
        return DatasetSample(key, image, label, self.class_names[label], parameters, members)

    def __iter__(self) -> Iterator[DatasetSample]:
        return (self[position] for position in range(len(self)))


def open_stream(dataset: str, stream: str) -> DatasetStream:
    """A stream of a finished dataset, in a folder or in a bucket (`s3://...`).

    Raises UsageError where the dataset has no such stream, FormatError where it is not finished or a shard is missing.
    """
    from .manifest import load_manifest
    from .samples import StreamSamples
    from .storage import Storage

    storage = Storage(dataset)
    samples = StreamSamples(storage, load_manifest(storage).find_stream(stream, dataset))
    samples.check_sizes()
    return DatasetStream(samples)
