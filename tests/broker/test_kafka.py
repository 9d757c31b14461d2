"""The embedded broker, for real."""

import asyncio
import os
import signal
import socket
import sys
import textwrap

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from waiting import until

from app.broker import jars
from app.broker import kafka as module
from app.broker.jars import default_cache_dir, kafka_classpath
from app.broker.kafka import EmbeddedKafka
from app.core.errors import ConfigurationError


async def write(servers):
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic("kept", 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait("kept", b"value")


async def read(servers):
    consumer = AIOKafkaConsumer("kept", bootstrap_servers=servers, auto_offset_reset="earliest")
    async with consumer:
        async with asyncio.timeout(30):
            return (await consumer.getone()).value


async def test_its_data_and_port_are_kept_over_a_stop_and_a_crash(kafka, tmp_path):
    said = []
    broker = EmbeddedKafka(data_dir=tmp_path, progress=said.append)
    await broker.start()
    first = broker.bootstrap_servers
    await write(first)
    await broker.stop()
    assert broker.pid is None
    assert said == ["formatting Kafka's data folder …"]
    async with broker:
        assert broker.bootstrap_servers == first
        assert await read(first) == b"value"
        await broker.kill()
        await broker.start()
        assert await read(broker.bootstrap_servers) == b"value"
    await broker.stop()


async def test_a_port_that_is_taken_while_it_starts_is_chosen_again(kafka, tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        free, chosen = module._free_port, [module._free_port(), other.getsockname()[1]]  # broker, controller
        monkeypatch.setattr(module, "_free_port", lambda: chosen.pop(0) if chosen else free())
        async with EmbeddedKafka(data_dir=tmp_path) as broker:
            await write(broker.bootstrap_servers)
            assert not chosen


async def test_ports_that_are_always_taken_are_told(kafka, tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken, free, tried = other.getsockname()[1], module._free_port, []

        def every_second_is_taken():
            tried.append(1)
            return free() if len(tried) % 2 else taken

        monkeypatch.setattr(module, "_free_port", every_second_is_taken)
        with pytest.raises(ConfigurationError, match=module.PORT_TAKEN):
            await EmbeddedKafka(data_dir=tmp_path).start()
        assert len(tried) == 2 * module.ATTEMPTS


async def test_two_on_one_folder_is_refused(kafka, tmp_path):
    async with EmbeddedKafka(data_dir=tmp_path):
        with pytest.raises(ConfigurationError, match="another Kafka runs on"):
            await EmbeddedKafka(data_dir=tmp_path).start()


async def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} is taken.*RUNBOOKS_KAFKA__PORT"):
            await EmbeddedKafka(data_dir=tmp_path, port=port).start()


async def test_what_kafka_said_is_told_when_it_does_not_start(tmp_path):
    async with EmbeddedKafka(data_dir=tmp_path):
        pass
    (tmp_path / "data" / "meta.properties").write_text("broken")
    with pytest.raises(ConfigurationError, match=r"Kafka did not start; it said: (.|\n)*node ID not found"):
        await EmbeddedKafka(data_dir=tmp_path).start()


async def test_a_parent_that_is_killed_leaves_no_java_behind(tmp_path):
    script = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from app.broker.kafka import EmbeddedKafka

        async def main():
            broker = EmbeddedKafka(data_dir=Path({str(tmp_path)!r}))
            await broker.start()
            print(broker.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """)
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    java = psutil.Process(int(await parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()

    async def gone():
        return not java.is_running() or java.status() == psutil.STATUS_ZOMBIE

    await until(gone)
    async with EmbeddedKafka(data_dir=tmp_path):
        pass


def test_a_fetch_that_was_broken_off_is_mended(tmp_path, kafka):
    whole = kafka_classpath(default_cache_dir(), print)
    listing = tmp_path / "listing.json"
    listing.write_text(f'[["{whole[0]}", {whole[0].stat().st_size}], ["{tmp_path}/gone.jar", 7]]')
    assert jars._complete(listing) is None
    listing.write_text(f'[["{whole[0]}", {whole[0].stat().st_size}]]')
    assert jars._complete(listing) == [whole[0]]
    assert jars._complete(tmp_path / "none.json") is None


def test_the_cache_is_outside_the_tree(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "infrasage-runbooks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir().parent.name == ".cache"
