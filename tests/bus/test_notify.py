"""What systemd hears: on a real datagram socket, from the notifier and from a gateway that really runs."""

import asyncio
import os
import socket

import pytest

from bus.notify import Notifier


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    async def hears(self):
        """The next message."""
        async with asyncio.timeout(30):
            return (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()

    def heard(self):
        """All messages that have come so far."""
        messages = []
        try:
            while True:
                messages.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return messages


@pytest.fixture(params=["file", "abstract"])
def place(request, tmp_path):
    """A NOTIFY_SOCKET and who listens there: a path, or a name in the abstract namespace, written with ``@``."""
    name = f"bargein-test-{os.getpid()}-{tmp_path.name}"
    path = str(tmp_path / "notify")
    systemd = Systemd(path if request.param == "file" else f"\0{name}")
    yield (path if request.param == "file" else f"@{name}"), systemd
    systemd.socket.close()


async def test_it_says_what_is_so(place):
    """Ready, alive and stopping are one datagram each, in systemd's words."""
    address, systemd = place
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"})
    notifier.ready()
    notifier.alive()
    notifier.stopping()
    assert systemd.heard() == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


async def test_signs_of_life_come_from_the_event_loop(place):
    """While the loop runs there is a sign of life three times in each period; a loop that hangs sends none."""
    address, systemd = place
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000"})
    assert notifier.interval == pytest.approx(0.01)
    watching = asyncio.create_task(notifier.watch())
    assert [await systemd.hears() for _ in range(3)] == ["WATCHDOG=1"] * 3
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    systemd.heard()
    watching = asyncio.create_task(notifier.watch())
    assert systemd.heard() == []  # the loop has not come to it: this test holds it
    assert await systemd.hears() == "WATCHDOG=1"
    watching.cancel()


def test_it_does_not_say_too_often_that_it_lives(place):
    """However often a busy loop calls it, one sign of life goes out for each interval."""
    address, systemd = place
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"})
    for _ in range(100):
        notifier.alive()
    assert systemd.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/nobody/listens", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/nobody/listens", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nobody/listens"},
    ],
)
async def test_where_nobody_watches_it_is_silent(environment):
    """Without a socket, for another process's watchdog, or with nonsense, there are no signs of life and no errors."""
    notifier = Notifier(environment)
    assert notifier.interval == 0
    notifier.ready()
    await notifier.watch()
    notifier.stopping()


async def test_a_file_says_that_it_lives(tmp_path):
    """Where ALIVE_FILE is set, the file is there from the moment at which the process serves, and touched from then on,
    not before."""
    file = tmp_path / "alive"
    notifier = Notifier({"ALIVE_FILE": str(file)})
    assert notifier.interval > 0
    notifier.alive()
    assert not file.exists()
    notifier.ready()
    os.utime(file, (0, 0))
    watching = asyncio.create_task(notifier.watch())
    await asyncio.sleep(0)
    assert file.stat().st_mtime > 0
    watching.cancel()
