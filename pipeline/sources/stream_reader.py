"""Read single samples of a stream that is built already."""

from collections.abc import Iterable
from functools import lru_cache

from ...manifests.errors import FormatError
from ...manifests.manifest import Record
from ...manifests.records import load_record
from ...manifests.samples import check_shard, read_recorded_index
from ...manifests.shard import Index
from ...manifests.sources.stream import StreamPlan
from ...manifests.storage import Storage
from ...manifests.tar_members import Member

# Of 1,000 samples each, about 30 MB.
CACHED_INDEXES = 64


class StreamReader:
    """Samples of one stream by their index in it, from any shard in any order.

    A shard is compared with its record before its first sample is read. Raises FormatError where it differs.
    """

    def __init__(self, storage: Storage, plan: StreamPlan) -> None:
        self._storage = storage
        self._plan = plan
        self._checked: dict[int, Record] = {}
        self._load_index = lru_cache(CACHED_INDEXES)(self._read_index)

    @property
    def extension(self) -> str:
        """The image's, among a sample's members."""
        return self._plan.stream.extension

    def members(self, sample_index: int) -> dict[str, Member]:
        """Members of a sample by extension; none where it is a hole."""
        return self._load_index(self._plan.shard_of(sample_index)).get(self._plan.stream.key(sample_index), {})

    def read(self, sample_index: int, others: Iterable[str] = ()) -> dict[str, bytes] | None:
        """The encoded image of a sample and other members that it has, by extension; None where it is a hole."""
        members = self.members(sample_index)
        if not members:
            return None
        wanted = {name: members[name] for name in (self.extension, *others) if name in members}
        shard = self._checked[self._plan.shard_of(sample_index)].path
        return {name: self._storage.read_range(shard, member.offset, member.size) for name, member in wanted.items()}

    def _read_index(self, shard_index: int) -> Index:
        if shard_index not in self._checked:
            record = load_record(self._storage, self._plan, shard_index)
            try:
                check_shard(self._storage, record)
            except FormatError as error:
                raise FormatError(f"{error}; remove it to have it made again") from error
            self._checked[shard_index] = record
        return read_recorded_index(self._storage, self._checked[shard_index])
