"""Redis behind TLS and with users that may do no more than they need."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from bus.address import Address, Tls
from bus.connect import connector
from bus.events import Sentence
from bus.keys import new_session, secret_key, session_key
from bus.streams import Bus
from tests.end_to_end.test_redis_outage import check_whole, stack
from tests.gateway.realtime_client import client
from tests.product import ROOT
from tests.servers import Server, servers, wire
from workers.jobs.worker import make_worker

pytestmark = pytest.mark.real

SECRETS = {"GATEWAY_PASSWORD": "gate-1", "WORKER_PASSWORD": "work-2", "JOBS_PASSWORD": "jobs-3"}


@pytest.fixture
def guarded(tmp_path):
    """A server with the users of deploy/redis/users.acl."""
    text = (ROOT / "deploy/redis/users.acl").read_text()
    for name, secret in SECRETS.items():
        text = text.replace(name, secret)
    (tmp_path / "users.acl").write_text(text + "user root on >root ~* &* +@all\n")
    with servers() as made:
        made.append(Server(tmp_path / "redis", f"aclfile {tmp_path}/users.acl"))
        yield made[0]


def as_user(server, name, secret):
    return connector(Address.parse(server.url, username=name, password=secret))


def refused(server, url_user):
    """What was refused since it was last asked: (user, object) of each."""
    with Redis(port=server.port, username="root", password="root") as root:
        found = {(entry["username"], entry["object"]) for entry in root.acl_log()}
        root.acl_log_reset()
    return {each for each in found if each[0] in url_user}


async def test_a_call_with_least_rights(guarded):
    """Gateway and workers, each as its own user, take a call with a barge-in, and nothing they need is refused."""
    gateway = as_user(guarded, "gateway", SECRETS["GATEWAY_PASSWORD"])
    workers = as_user(guarded, "worker", SECRETS["WORKER_PASSWORD"])
    async with stack(gateway, worker_client=workers) as running, client(running.ws) as call:
        await call.speak()
        await call.get("response.done", limit=40)
        check_whole(call, 1)
        await call.speak()
        await call.get("response.output_audio.delta", len(call.all("response.output_audio.delta")) + 10, limit=20)
        await call.send("response.cancel")
        done = await call.get("response.done", 2)
        assert done["response"]["status"] == "cancelled"
        (session,) = running.sessions
        async with asyncio.timeout(10):
            while await running.bus.commands.get(session_key(session, "cancelled")) != b"2":
                await asyncio.sleep(0.02)
    assert refused(guarded, ("gateway", "worker")) == set()


@pytest.mark.parametrize("user", ["gateway", "worker", "jobs"])
def test_what_they_may_not_do(guarded, user):
    """Nobody empties the server, reads its configuration, lists its keys, or touches what is not bargein's."""
    with as_user(guarded, user, SECRETS[f"{user.upper()}_PASSWORD"]).sync(5) as redis:
        redis.ping()
        forbidden = [
            ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("ACL", "LIST"), ("MONITOR",),
            ("SHUTDOWN",), ("SET", "other:key", "1"), ("GET", "other:key"),
            ("EVAL", "return redis.call('SET', KEYS[1], '1')", "1", "other:key"),
        ]  # fmt: skip
        if user != "gateway":
            forbidden += [("GET", secret_key("ab")), ("PUBLISH", "bargein:cancel", "{}")]
        if user == "jobs":
            forbidden.append(("XADD", session_key("s0-beefbeef", "mic"), "*", "a", "1"))
        for command in forbidden:
            with pytest.raises(NoPermissionError):
                redis.execute_command(*command)


def test_jobs_with_least_rights(guarded):
    """RQ's worker takes a job that the gateway's user queued, as its own user."""
    from rq import Queue

    gateway = as_user(guarded, "gateway", SECRETS["GATEWAY_PASSWORD"]).sync(5, patient=True)
    jobs = as_user(guarded, "jobs", SECRETS["JOBS_PASSWORD"]).sync(30, patient=True)
    job = Queue("bargein-jobs", connection=gateway).enqueue("operator.add", 40, 2, job_id="sum")
    make_worker(jobs).work(burst=True, with_scheduler=True)
    assert job.return_value() == 42
    assert not {each for each in refused(guarded, ("gateway", "jobs")) if each[1] != "client|list"}


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with an authority (ca.pem), and a certificate for a server and for a client, with their keys."""
    folder = tmp_path_factory.mktemp("tls")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(folder, *new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    for name in ("server", "client"):
        openssl(
            folder, *new, "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", f"{name}.key", "-out",
            f"{name}.pem", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
    return folder


def server_side(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_a_call_over_tls(tmp_path, certificates):
    """rediss:// with an authority of one's own and a client certificate: a whole call, every connection encrypted."""
    tls = Tls(certificates / "ca.pem", certificates / "client.pem", certificates / "client.key")
    with servers() as made:
        made.append(Server(tmp_path / "redis"))
        async with wire(made[0].port, server_side(certificates)) as line:
            where = Address.parse(f"rediss://127.0.0.1:{line.port}/0", tls=tls)
            async with stack(connector(where)) as running, client(running.ws) as call:
                await call.speak()
                await call.get("response.done", limit=40)
                check_whole(call, 1)


@pytest.mark.parametrize("tls", ["stranger", "nobody"])
async def test_tls_refuses_strangers(tmp_path, certificates, tls):
    """A server whose authority is not trusted is not talked to; nor does it talk to a client without a certificate."""
    files = Tls() if tls == "stranger" else Tls(certificates / "ca.pem")
    with servers() as made:
        made.append(Server(tmp_path / "redis"))
        async with wire(made[0].port, server_side(certificates)) as line:
            bus = Bus(connector(Address.parse(f"rediss://127.0.0.1:{line.port}/0", tls=files)))
            try:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await bus.publish(session_key(new_session(1), "reply"), Sentence(1, 1, 0, "x"))
            finally:
                await bus.close()
    assert made[0].process.returncode is not None
