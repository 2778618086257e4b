"""Work that is due again and again: one at a time, until it is asked to stop."""

from __future__ import annotations

import time
from threading import Event, Thread, current_thread

import pytest

from selfgen.schedule import repeat

pytestmark = pytest.mark.timeout(30)


def test_work_is_done_at_once_in_this_thread() -> None:
    stop, done = Event(), list[Thread]()

    def work() -> None:
        done.append(current_thread())
        stop.set()

    repeat(work, 60, stop)  # longer than this test may take
    assert done == [current_thread()]


def test_work_is_done_again_until_it_is_to_stop() -> None:
    stop, began, done = Event(), time.monotonic(), list[float]()

    def work() -> None:
        done.append(time.monotonic() - began)
        if len(done) == 4:
            stop.set()

    repeat(work, 0.2, stop)
    assert len(done) == 4
    assert done[3] >= 0.6


def test_what_was_due_while_it_took_longer_is_done_once() -> None:
    stop, began, begins, held = Event(), time.monotonic(), list[float](), Event()

    def work() -> None:
        begins.append(time.monotonic() - began)
        held.wait(1.05 if len(begins) == 1 else 0)
        if len(begins) == 3:
            stop.set()

    repeat(work, 0.25, stop)
    assert begins[1] >= 1.05
    assert begins[2] >= 1.25  # not for each of the four times that had gone by


def test_what_is_at_work_when_it_is_to_stop_ends_first() -> None:
    stop, at_work, ended = Event(), Event(), Event()

    def work() -> None:
        at_work.set()
        assert stop.wait(10)
        ended.set()

    Thread(target=lambda: (at_work.wait(10), stop.set()), daemon=True).start()
    repeat(work, 0.1, stop)
    assert ended.is_set()


def test_it_ends_where_it_was_to_stop_before_it_began() -> None:
    stop, done = Event(), list[bool]()
    stop.set()
    repeat(lambda: done.append(True), 60, stop)
    assert len(done) <= 1


@pytest.mark.parametrize("error", [ValueError("no such hour"), KeyboardInterrupt()])
def test_what_work_raises_ends_it(error: BaseException, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        repeat(work, 0.1, Event())
    assert capfd.readouterr().err == ""
