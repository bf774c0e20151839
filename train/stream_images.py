"""Images of one stream of a finished genint dataset."""

import hashlib
from typing import Any

from ..manifests.errors import FormatError
from ..manifests.manifest import Manifest, StreamEntry, dump_json
from ..manifests.samples import StreamSamples
from ..manifests.storage import Storage


class StreamImages:
    """Images of a stream, checked against its records."""

    def __init__(self, storage: Storage, manifest: Manifest, entry: StreamEntry) -> None:
        self.class_names = tuple(entry.class_names)
        # Tars that were repacked without class names have their labels for names.
        self.names_classes = any(name != str(label) for label, name in enumerate(self.class_names))
        self.samples = StreamSamples(storage, entry, check=False)  # the loader says when
        self.shard_sizes = self.samples.shard_sizes
        self._members = ("cls", entry.image_extension)
        self._fingerprint = {
            "kind": "genint",
            "dataset": manifest.name,
            "stream": entry.name,
            "fingerprint": hashlib.sha256(dump_json(manifest.fingerprint.model_dump())).hexdigest(),
            "sums_sha256": manifest.sums_sha256,
        }

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, position: int) -> tuple[bytes, int]:
        members = self.samples.read(position, self._members)
        try:
            content, label = members[self._members[1]], int(members["cls"])
        except KeyError as error:
            raise FormatError(f"{self.key(position)}: has no .{error.args[0]}") from error
        except ValueError as error:
            raise FormatError(f"{self.key(position)}: label {members['cls']!r} is no number") from error
        if not 0 <= label < len(self.class_names):
            raise FormatError(f"{self.key(position)}: label {label}, the stream has {len(self.class_names)} classes")
        return content, label

    def key(self, position: int) -> str:
        shard, _ = self.samples.locate(position)
        return f"{self.samples.storage / self.samples.records[shard].path}: sample {self.samples.key(position)}"

    def check(self) -> None:
        self.samples.check_sizes()

    def check_shard(self, shard: int) -> None:
        self.samples.check_shard(shard)

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint
