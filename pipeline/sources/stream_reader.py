"""Read single samples of a stream that is built already."""

from collections.abc import Sequence
from functools import lru_cache

from ...manifests.manifest import shard_name
from ...manifests.shard import Index, read_index
from ...manifests.sources.stream import StreamPlan
from ...manifests.storage import Storage

# Of 1,000 samples each, about 30 MB.
CACHED_INDEXES = 64


class StreamReader:
    """Samples of one stream by their index in it, from any shard in any order."""

    def __init__(self, storage: Storage, plan: StreamPlan) -> None:
        self._storage = storage
        self._plan = plan
        self._load_index = lru_cache(CACHED_INDEXES)(self._read_index)

    @property
    def extension(self) -> str:
        """The image's, among a sample's members."""
        return self._plan.stream.extension

    def read(self, sample_index: int, others: Sequence[str] = ()) -> dict[str, bytes] | None:
        """The encoded image of a sample and other members that it has, by extension; None where it is a hole."""
        stream = self._plan.stream
        shard_index = self._plan.shard_of(sample_index)
        members = self._load_index(shard_index).get(stream.key(sample_index))
        if members is None:
            return None
        wanted = {name: members[name] for name in (stream.extension, *others) if name in members}
        shard = shard_name(stream.name, shard_index)
        return {name: self._storage.read_range(shard, member.offset, member.size) for name, member in wanted.items()}

    def _read_index(self, shard_index: int) -> Index:
        name = shard_name(self._plan.stream.name, shard_index).removesuffix(".tar") + ".idx"
        return read_index(self._storage.read(name).decode("ascii"))
