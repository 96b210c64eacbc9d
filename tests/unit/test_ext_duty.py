"""Who serves the TAP: one thread while there is little to do, two under load, one again after it."""

from __future__ import annotations

import threading
import time

from tests.unit.ext_harness import Node, connect, frame, tasks, wait_until


def wakeups(name: str) -> int:
    """How often the threads of this name have slept, over all engines of the process."""
    total = 0
    for task, status in tasks():
        if task == name:
            lines = status.splitlines()
            total += int(next(line for line in lines if line.startswith("voluntary")).split()[1])
    return total


def exchange(one: Node, two: Node, count: int) -> None:
    """Frames there and back, each waited for, with pauses in which the threads sleep."""
    for number in range(count):
        one.tap.send(frame(two.mac, one.mac, b"to %d" % number))
        assert two.receive() == frame(two.mac, one.mac, b"to %d" % number)
        two.tap.send(frame(one.mac, two.mac, b"back %d" % number))
        assert one.receive() == frame(one.mac, two.mac, b"back %d" % number)
        time.sleep(0.002)


def flood(one: Node, two: Node, until: float) -> tuple[int, int]:
    """As many numbered frames as go through; how many were sent and how many came, in order."""
    sent = came = 0
    stop = threading.Event()

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            one.tap.send(frame(two.mac, one.mac, b"%d" % sent))
            sent += 1

    sender = threading.Thread(target=send)
    sender.start()
    last = -1
    try:
        while time.monotonic() < until or came < 20_000:
            number = int(two.receive()[14:])
            assert number > last, "a frame was repeated or overtaken"
            last = number
            came += 1
    finally:
        stop.set()
        while sender.is_alive():
            if two.frames_waiting():
                two.receive()
        sender.join()
    return sent, came


def test_the_second_thread_sleeps_while_there_is_little_to_do() -> None:
    with Node(1) as one, Node(2) as two:
        connect(one, two, 5)
        exchange(one, two, 5)
        before = wakeups("sm-outbound"), wakeups("sm-inbound")
        exchange(one, two, 50)
        # A loaded machine may make a pass look like work now and then.
        assert wakeups("sm-outbound") - before[0] <= 20
        assert wakeups("sm-inbound") - before[1] >= 100


def test_the_second_thread_helps_under_load_and_sleeps_again() -> None:
    with Node(1) as one, Node(2) as two:
        connect(one, two, 5)
        exchange(one, two, 5)  # by then the second thread sleeps for the first time
        before = wakeups("sm-outbound")
        flood(one, two, time.monotonic() + 0.3)
        assert wakeups("sm-outbound") > before

        def asleep() -> bool:
            before = wakeups("sm-outbound")
            time.sleep(0.1)
            return wakeups("sm-outbound") == before

        wait_until(asleep)
        while two.frames_waiting():
            two.receive()
        exchange(one, two, 5)
