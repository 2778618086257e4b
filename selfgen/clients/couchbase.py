"""Couchbase, thin: documents by key, as bytes, with the few operations that the registry needs.

The SDK is imported where a connection is made, because it takes half a second that help and completion need
not wait for.

>>> documents = Documents(connect(get_settings()))  # doctest: +SKIP
>>> documents.insert("client::C1", b'{"client_id": "C1"}')  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from msgspec import Struct

from selfgen.registry import Unavailable

if TYPE_CHECKING:
    from selfgen.settings import Settings

Item = TypeVar("Item")

#: Documents read or written at once: enough to keep the line full, few enough to answer within the timeout.
BATCH = 2500


class KeyExists(Exception):
    """An insert found the key taken."""


class CasMismatch(Exception):
    """A replacement found another version than the one it was made from."""


class Stored(Struct, frozen=True, gc=False):
    """A document's content (JSON) and its version."""

    content: bytes
    cas: int


class Write(NamedTuple):
    """One document to write: an insert where `cas` is None, else the replacement of that version."""

    key: str
    content: bytes
    cas: int | None = None


def connect(settings: Settings, timeout_s: float | None = None) -> Any:
    """Return the registry's collection, ready to use.

    Raises
    ------
    Unavailable
        Where the server does not answer within the timeout (`couchbase_timeout_s` by default).
    """
    from couchbase.auth import PasswordAuthenticator
    from couchbase.cluster import Cluster
    from couchbase.exceptions import AuthenticationException, CouchbaseException
    from couchbase.options import ClusterMetricsOptions, ClusterOptions, ClusterTimeoutOptions, ClusterTracingOptions

    patience = timedelta(seconds=timeout_s or settings.couchbase_timeout_s)
    certificate = settings.couchbase_ca_certificate
    options = ClusterOptions(
        PasswordAuthenticator(
            settings.couchbase_user,
            settings.couchbase_password.get_secret_value(),
            cert_path=str(certificate) if certificate else None,
        ),
        timeout_options=ClusterTimeoutOptions(
            bootstrap_timeout=patience,
            connect_timeout=patience,
            kv_timeout=patience,
            kv_durable_timeout=patience * 2,
        ),
        # what the SDK measures of itself costs a tenth of its speed
        tracing_options=ClusterTracingOptions(enable_tracing=False),
        metrics_options=ClusterMetricsOptions(enable_metrics=False),
    )
    try:
        cluster = Cluster.connect(settings.couchbase, options)
        bucket = cluster.bucket(settings.couchbase_bucket)
        cluster.wait_until_ready(patience)
    except AuthenticationException as error:
        raise Unavailable(
            f"Couchbase at {settings.couchbase} refuses user {settings.couchbase_user} or bucket "
            f"{settings.couchbase_bucket}: check SELFGEN_COUCHBASE_USER, _PASSWORD and _BUCKET."
        ) from error
    except CouchbaseException as error:
        raise Unavailable(
            f"Couchbase does not answer at {settings.couchbase}: start it (selfgen stack up couchbase) "
            f"or correct SELFGEN_COUCHBASE_URL. {_message(error)}"
        ) from error
    return bucket.scope(settings.couchbase_scope).collection(settings.couchbase_collection)


def ping(settings: Settings, timeout_s: float = 1.0) -> bool:
    """Tell whether the server answers."""
    try:
        Documents(connect(settings, timeout_s)).get("ping")
    except Unavailable:
        return False
    return True


class Documents:
    """A collection's documents by key.

    Parameters
    ----------
    collection
        What `connect` returns.
    durability
        How safe a write is before it is acknowledged: `none`, `majority`, `majority_and_persist_to_active` or
        `persist_to_majority`; the stand-in knows only `none`.

    Raises
    ------
    Unavailable
        By every operation, where the server does not answer. A write may have been done then.
    """

    def __init__(self, collection: Any, durability: str = "none") -> None:
        from couchbase.durability import DurabilityLevel, ServerDurability
        from couchbase.transcoder import RawJSONTranscoder

        self._collection = collection
        self._transcoder = RawJSONTranscoder()
        level = DurabilityLevel[durability.upper()]
        self._durability = {} if level is DurabilityLevel.NONE else {"durability": ServerDurability(level)}

    def get(self, key: str) -> Stored | None:
        """Return a document, or None where there is none."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Stored]:
        """Return documents by key, without those that do not exist."""
        from couchbase.exceptions import DocumentNotFoundException

        found: dict[str, Stored] = {}
        for batch in _batches(dict.fromkeys(keys)):
            with _unavailable():
                answer = self._collection.get_multi(batch, transcoder=self._transcoder)
            if not answer.all_ok:
                for key, problem in answer.exceptions.items():
                    if not isinstance(problem, DocumentNotFoundException):
                        raise Unavailable(f"Couchbase does not answer for {key}. {_message(problem)}") from problem
            found |= {key: Stored(result.value, result.cas) for key, result in answer.results.items()}
        return found

    def insert(self, key: str, content: bytes) -> None:
        """Write a new document; `KeyExists` where there is one."""
        self._one(Write(key, content))

    def replace(self, key: str, content: bytes, cas: int) -> None:
        """Write a document's next version; `CasMismatch` where it is no longer the one given."""
        self._one(Write(key, content, cas))

    def remove(self, key: str, cas: int = 0) -> None:
        """Remove a document (that version of it, where a CAS is given); nothing where there is none."""
        from couchbase.exceptions import CasMismatchException, DocumentNotFoundException

        with _unavailable():
            try:
                self._collection.remove(key, cas=cas, **self._durability)
            except DocumentNotFoundException:
                return
            except CasMismatchException as error:
                raise CasMismatch(key) from error

    def write_many(self, writes: Sequence[Write]) -> dict[str, KeyExists | CasMismatch]:
        """Write documents side by side, in no order; return what did not go in, by key."""
        refused: dict[str, KeyExists | CasMismatch] = {}
        for batch in _batches(writes):
            inserts = {write.key: write.content for write in batch if write.cas is None}
            replaced = [write for write in batch if write.cas is not None]
            with _unavailable():
                if inserts:
                    answer = self._collection.insert_multi(inserts, transcoder=self._transcoder, **self._durability)
                    refused |= self._refused(answer.exceptions)
                if replaced:
                    answer = self._collection.replace_multi(
                        {write.key: write.content for write in replaced},
                        per_key_options={write.key: {"cas": write.cas} for write in replaced},
                        transcoder=self._transcoder,
                        **self._durability,
                    )
                    refused |= self._refused(answer.exceptions)
        return refused

    def _one(self, write: Write) -> None:
        for problem in self.write_many([write]).values():
            raise problem

    @staticmethod
    def _refused(problems: Mapping[str, Exception]) -> dict[str, KeyExists | CasMismatch]:
        from couchbase.exceptions import (
            CasMismatchException,
            DocumentExistsException,
            DocumentNotFoundException,
        )

        refused: dict[str, KeyExists | CasMismatch] = {}
        for key, problem in problems.items():
            if isinstance(problem, DocumentExistsException):
                refused[key] = KeyExists(key)
            elif isinstance(problem, CasMismatchException | DocumentNotFoundException):
                refused[key] = CasMismatch(key)
            else:
                raise Unavailable(
                    f"Couchbase did not confirm {key}: look, then repeat; doing the same again is safe. "
                    f"{_message(problem)}"
                ) from problem
        return refused


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch


@contextmanager
def _unavailable() -> Iterator[None]:
    from couchbase.exceptions import CouchbaseException

    try:
        yield
    except CouchbaseException as error:
        raise Unavailable(f"Couchbase does not answer. {_message(error)}") from error


def _message(error: Exception) -> str:
    return f"({type(error).__name__.removesuffix('Exception')})"
