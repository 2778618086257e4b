"""What a command would write, without writing it: documents whose changes stay in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from selfgen.clients.couchbase import CasMismatch, Documents, KeyExists, Stored, Write


class Rehearsal(Documents):
    """Documents over others: read from them, written only here.

    Attributes
    ----------
    written
        The last content of every document that would have been written, by key, in order of the first writing.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._versions: dict[str, Stored] = {}
        self._removed: set[str] = set()

    @property
    def written(self) -> dict[str, bytes]:
        """The documents as they would be."""
        return {key: stored.content for key, stored in self._versions.items() if key not in self._removed}

    def get_many(self, keys: Iterable[str]) -> dict[str, Stored]:
        """Return documents as they would be."""
        wanted = list(keys)
        found = self._documents.get_many(wanted)
        found |= {key: self._versions[key] for key in wanted if key in self._versions}
        return {key: stored for key, stored in found.items() if key not in self._removed}

    def write_many(self, writes: Sequence[Write]) -> dict[str, KeyExists | CasMismatch]:
        """Write here."""
        current = self.get_many([write.key for write in writes])
        refused: dict[str, KeyExists | CasMismatch] = {}
        for write in writes:
            there = current.get(write.key)
            if write.cas is None and there is not None:
                refused[write.key] = KeyExists(write.key)
            elif write.cas is not None and (there is None or there.cas != write.cas):
                refused[write.key] = CasMismatch(write.key)
            else:
                self._removed.discard(write.key)
                # no server counts below zero: these versions meet no other
                self._versions[write.key] = Stored(write.content, -len(self._versions) - 1)
        return refused

    def remove(self, key: str, cas: int = 0) -> None:
        """Remove here."""
        self._removed.add(key)
