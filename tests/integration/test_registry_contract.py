"""All that the registry needs of its store; against a real cluster where SELFGEN_COUCHBASE_URL names one."""

from __future__ import annotations

import threading

import pytest

from selfgen.clients.couchbase import BATCH, CasMismatch, KeyExists, Write, connect, ping
from selfgen.registry import Unavailable
from selfgen.settings import Settings
from tests.integration.registry_support import Namespace, couchbase_settings, open_documents

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings(stack):
    return couchbase_settings(stack)


@pytest.fixture(scope="module")
def connected(settings):
    return open_documents(settings)


@pytest.fixture
def documents(connected):
    return Namespace(connected)


def test_a_document_is_read_as_it_was_written(documents):
    content = '{"name":"Ibérica ñ 太陽","n":1.5,"none":null}'.encode()
    documents.insert("client::Ñ 1/ü::x", content)
    assert documents.get("client::Ñ 1/ü::x").content == content
    assert documents.get("client::N 1/u::x") is None


def test_insert_takes_a_free_key_only(documents):
    documents.insert("k", b"1")
    with pytest.raises(KeyExists):
        documents.insert("k", b"2")
    assert documents.get("k").content == b"1"


def test_replace_takes_the_version_it_was_made_from_only(documents):
    documents.insert("k", b"1")
    first = documents.get("k")
    documents.replace("k", b"2", first.cas)
    second = documents.get("k")
    assert second.cas != first.cas
    with pytest.raises(CasMismatch):
        documents.replace("k", b"3", first.cas)
    assert documents.get("k") == second
    with pytest.raises(CasMismatch):
        documents.replace("missing", b"3", first.cas)
    assert documents.get("missing") is None


def test_a_write_of_the_same_content_is_a_new_version(documents):
    documents.insert("k", b"1")
    first = documents.get("k")
    documents.replace("k", b"1", first.cas)
    with pytest.raises(CasMismatch):
        documents.replace("k", b"2", first.cas)


def test_remove_takes_what_is_there(documents):
    documents.insert("k", b"1")
    stale = documents.get("k").cas
    documents.replace("k", b"2", stale)
    with pytest.raises(CasMismatch):
        documents.remove("k", stale)
    assert documents.get("k").content == b"2"
    documents.remove("k")
    documents.remove("k")
    assert documents.get("k") is None
    documents.insert("k", b"3")
    assert documents.get("k").content == b"3"


def test_many_are_read_and_written_at_once(documents):
    count = 2 * BATCH + 7
    assert documents.write_many([Write(f"k{n}", str(n).encode()) for n in range(count)]) == {}
    found = documents.get_many([*(f"k{n}" for n in range(count)), "missing", "k0"])
    assert {key: stored.content for key, stored in found.items()} == {f"k{n}": str(n).encode() for n in range(count)}

    mixed = [Write(f"k{n}", b"0", found[f"k{n}"].cas) for n in range(3)]
    mixed += [Write("k3", b"0", found["k4"].cas), Write("k5", b"0"), Write("new", b"0")]
    refused = documents.write_many(mixed)
    assert {key: type(problem) for key, problem in refused.items()} == {"k3": CasMismatch, "k5": KeyExists}
    assert documents.get_many(["k2", "k3", "k5", "new"])["k3"].content == b"3"
    assert documents.get("new").content == b"0"


def test_a_large_document_is_kept(documents):
    content = b'"' + b"x" * 2_000_000 + b'"'
    documents.insert("large", content)
    assert documents.get("large").content == content


def test_of_many_writers_of_one_version_exactly_one_wins(documents):
    documents.insert("counter", b"0")
    wins = []

    def count(writer: int) -> None:
        for _ in range(25):
            stored = documents.get("counter")
            try:
                documents.replace("counter", str(int(stored.content) + 1).encode(), stored.cas)
            except CasMismatch:
                continue
            wins.append(writer)

    threads = [threading.Thread(target=count, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(documents.get("counter").content) == len(wins)
    assert len(wins) >= 25


def test_a_server_that_is_away_is_told_in_a_sentence(settings):
    away = Settings(couchbase_url="couchbase://127.0.0.1:9", couchbase_timeout_s=0.5)
    with pytest.raises(Unavailable, match=r"Couchbase does not answer at couchbase://127.0.0.1:9: start it"):
        connect(away)
    assert not ping(away, 0.5)
    assert ping(settings, 10)
