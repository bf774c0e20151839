"""Read single samples of a stream that is built already."""

import threading
from collections.abc import Iterable

from ...manifests.errors import FormatError
from ...manifests.records import load_record
from ...manifests.samples import MemberTable, check_shard, read_recorded_index
from ...manifests.sources.stream import StreamPlan
from ...manifests.storage import Storage
from ...manifests.tar_members import Member


class StreamReader:
    """Samples of one stream by their index in it, from any shard in any order, in any thread.

    A shard is compared with its record before its first sample is read, and its index read once: 8 bytes a member stay
    in memory. Raises FormatError where a shard differs.
    """

    def __init__(self, storage: Storage, plan: StreamPlan) -> None:
        self._storage = storage
        self._plan = plan
        self._tables: dict[int, tuple[str, MemberTable]] = {}
        self._lock = threading.Lock()

    @property
    def extension(self) -> str:
        """The image's, among a sample's members."""
        return self._plan.stream.extension

    def members(self, sample_index: int) -> dict[str, Member]:
        """Members of a sample by extension; none where it is a hole."""
        return self._find(sample_index)[1]

    def read(self, sample_index: int, others: Iterable[str] = ()) -> dict[str, bytes] | None:
        """The encoded image of a sample and other members that it has, by extension; None where it is a hole."""
        shard, members = self._find(sample_index)
        if not members:
            return None
        wanted = {name: members[name] for name in (self.extension, *others) if name in members}
        return {name: self._storage.read_range(shard, member.offset, member.size) for name, member in wanted.items()}

    def _find(self, sample_index: int) -> tuple[str, dict[str, Member]]:
        """A sample's shard and members."""
        shard_index, place = self._plan.locate(sample_index)
        with self._lock:
            if shard_index not in self._tables:
                self._tables[shard_index] = self._open(shard_index)
        shard, table = self._tables[shard_index]
        return shard, table.members(place)

    def _open(self, shard_index: int) -> tuple[str, MemberTable]:
        record = load_record(self._storage, self._plan, shard_index)
        try:
            check_shard(self._storage, record)
        except FormatError as error:
            raise FormatError(f"{error}; remove it to have it made again") from error
        index = read_recorded_index(self._storage, record)
        # By planned place, in which holes have no members.
        keys = (self._plan.stream.key(int(sample_index)) for sample_index in self._plan.indices(shard_index))
        return record.path, MemberTable.from_index({key: index.get(key, {}) for key in keys})
