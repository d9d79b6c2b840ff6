"""Redis Cluster of three nodes: the processor connects to the node of the stream's slot, even after the slot moves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from streamconsumer.errors import EffectsRejected, InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.processor import Effects, StreamManager
from streamconsumer.processor.consumer.effects_commit import commit_effects
from streamconsumer.processor.message import ConsumerId
from streamconsumer.redis_client.credentials import RedisAddress, RedisCredentials
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.topology import ClusterTopology, topology
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder

SLOT = key_slot(STREAM.encode())
SLOTS = [range(5461), range(5461, 10923), range(10923, 16384)]


class Nodes:
    """Three primaries that share the slots."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self.servers = servers
        self.clients = [Redis(host=each.host, port=each.port, decode_responses=True) for each in servers]
        owner = next(number for number, slots in enumerate(SLOTS) if SLOT in slots)
        self.owner, self.other, self.third = (servers[(owner + step) % 3] for step in range(3))
        self.group = Group(self.owner)
        self.managers: list[StreamManager] = []

    def manager(self, seed: RedisServer | None = None) -> StreamManager:
        self.managers.append(StreamManager.from_settings(self.access(seed or self.other), STREAM))
        return self.managers[-1]

    def access(self, seed: RedisServer) -> RedisSettings:
        return RedisSettings(url=f"redis://{seed.host}:{seed.port}/0", cluster=True)

    async def execute(self, server: RedisServer, *command: Any) -> Any:
        return await self.clients[self.servers.index(server)].execute_command(*command)  # type: ignore[no-untyped-call] # ships no types

    async def form(self) -> None:
        first = self.servers[0]
        for server, slots in zip(self.servers, SLOTS, strict=True):
            await self.execute(server, "CLUSTER", "ADDSLOTSRANGE", slots.start, slots.stop - 1)
            await self.execute(server, "CLUSTER", "MEET", first.host, first.port, first.options["cluster-port"])
        for server in self.servers:

            async def is_whole(server: RedisServer = server) -> bool:
                info = str(await self.execute(server, "CLUSTER", "INFO"))
                return "cluster_state:ok" in info and "cluster_known_nodes:3" in info

            await eventually(is_whole)

    async def move(self, source: RedisServer, target: RedisServer) -> None:
        """Move the slot with all its keys, as `redis-cli --cluster reshard` does."""
        source_id, target_id = [await self.execute(each, "CLUSTER", "MYID") for each in (source, target)]
        await self.execute(target, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", source_id)
        await self.execute(source, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", target_id)
        keys = await self.execute(source, "CLUSTER", "GETKEYSINSLOT", SLOT, 100)
        await self.execute(source, "MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)
        for each in (target, source, self.third):
            await self.execute(each, "CLUSTER", "SETSLOT", SLOT, "NODE", target_id)

    async def close(self) -> None:
        await self.group.close()
        for manager in self.managers:
            await manager.aclose()
        for client in self.clients:
            await client.aclose()


@pytest.fixture
async def nodes(start_redis: StartRedis) -> AsyncIterator[Nodes]:
    options = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
    made = Nodes([start_redis({**options, "cluster-port": str(free_port())}) for _ in range(3)])
    try:
        await made.form()
        yield made
    finally:
        await made.close()


async def test_every_seed_node_leads_to_the_stream(nodes: Nodes) -> None:
    handler = Recorder()
    manager = nodes.manager()
    await nodes.group.start(handler, manager=manager)
    ids = await nodes.group.add(20)
    await handler.wait_until_finished(20)
    await nodes.group.wait_settled()
    assert handler.ids == ids
    assert manager.address == (nodes.owner.host, nodes.owner.port)


async def test_error_names_the_cluster_setting_when_it_is_missing(nodes: Nodes) -> None:
    manager = StreamManager.from_url(f"redis://{nodes.other.host}:{nodes.other.port}/0")
    nodes.managers.append(manager)
    processor = await nodes.group.start(Recorder(), manager=manager)
    await eventually(lambda: "set redis.cluster" in processor.health.readiness()[1])


async def test_processor_follows_a_stream_that_moves_while_it_is_read(nodes: Nodes) -> None:
    handler = Recorder()
    manager = nodes.manager(nodes.owner)
    processor = await nodes.group.start(handler, manager=manager, poll=30)
    await nodes.group.add(5)
    await handler.wait_until_finished(5)
    await nodes.group.wait_until_reading()
    await nodes.move(nodes.owner, nodes.other)
    moved = Group(nodes.other)
    ids = await moved.add(5)
    await handler.wait_until_finished(10)
    await moved.wait_settled()
    assert handler.ids[5:] == ids
    assert set(handler.attempt_counts.values()) == {1}
    assert manager.address == (nodes.other.host, nodes.other.port)
    assert not processor.metrics.acknowledgements_lost
    await processor.stop_listening()
    assert await moved.consumers() == set()
    await moved.close()


async def test_running_message_is_acknowledged_on_the_new_node_after_a_move(nodes: Nodes) -> None:
    handler = Recorder(gate=False)
    processor = await nodes.group.start(handler, manager=nodes.manager(), concurrency=3, min_idle=1)
    await nodes.group.add(3)
    await handler.wait_until_received(3)
    await nodes.move(nodes.owner, nodes.other)
    moved = Group(nodes.other)
    handler.gate.set()
    await handler.wait_until_finished(3)
    await moved.wait_settled()
    assert set(handler.attempt_counts.values()) == {1}
    await processor.stop_listening()
    await moved.close()


async def test_effects_on_a_key_in_another_slot_are_rejected(nodes: Nodes) -> None:
    manager = nodes.manager()
    await nodes.group.create_group()
    await nodes.group.add()
    [message_id] = await nodes.group.read_as("pod-a")
    with pytest.raises(EffectsRejected, match=f"message {message_id}: .* slot of stream '{STREAM}'"):
        await commit_effects(
            manager.execute, ConsumerId(STREAM, GROUP, "pod-a"), message_id, Effects().set("elsewhere", "x")
        )
    assert await nodes.group.pending() == 1
    fitting = Effects().add(f"{{{STREAM}}}:out", {"a": "b"}).increment(f"count:{{{STREAM}}}")
    assert await commit_effects(manager.execute, ConsumerId(STREAM, GROUP, "pod-a"), message_id, fitting)


async def test_processor_reconnects_when_its_seed_node_is_gone(nodes: Nodes) -> None:
    """The other nodes were learned from it."""
    handler = Recorder()
    manager = nodes.manager(nodes.third)
    await nodes.group.start(handler, manager=manager)
    await nodes.group.add(1)
    await handler.wait_until_finished(1)
    await nodes.execute(nodes.owner, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    await asyncio.to_thread(nodes.third.kill)
    await nodes.execute(nodes.owner, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await nodes.group.client.connection_pool.disconnect()
    await nodes.group.add(1)
    await handler.wait_until_finished(2)


async def test_nodes_that_announce_no_host_name_are_found_by_their_addresses(nodes: Nodes) -> None:
    """The setting prefers host names, and the nodes have none. CLUSTER SLOTS then reports `?` as the host."""
    for server in nodes.servers:
        await nodes.execute(server, "CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")
    assert (await nodes.execute(nodes.other, "CLUSTER", "SLOTS"))[0][2][0] == "?"
    found = await topology(RedisCredentials(nodes.access(nodes.other)), STREAM).find_primary()
    assert found == (nodes.owner.host, nodes.owner.port)


def test_error_names_a_node_without_host_name_and_address() -> None:
    cluster = ClusterTopology(RedisCredentials(RedisSettings(url="redis://seed:6379/0", cluster=True)), STREAM)
    with pytest.raises(LookupError, match=f"node that owns hash slot {SLOT} announces no host name; set cluster-"):
        cluster._parse_reply(RedisAddress("seed"), [[0, 16383, [b"?", 6379, b"id"]]])


async def test_error_names_a_server_without_cluster_support(start_redis: StartRedis) -> None:
    server = start_redis()
    access = RedisSettings(url=server.url, cluster=True)
    with pytest.raises(RedisError, match=r"no node of the cluster reports the address .*cluster support disabled"):
        await topology(RedisCredentials(access), STREAM).find_primary()


async def test_group_continues_at_its_position_after_a_move(nodes: Nodes) -> None:
    await nodes.group.create_group()
    await nodes.group.add(4)
    await nodes.group.read_as("pod-a", 2)
    await nodes.move(nodes.owner, nodes.other)
    handler = Recorder()
    await nodes.group.start(handler, manager=nodes.manager(nodes.owner))
    await handler.wait_until_finished(4)
    moved = Group(nodes.other)
    await moved.wait_settled()
    assert {each["name"] for each in await moved.client.xinfo_groups(STREAM)} == {GROUP}
    await moved.close()


@pytest.mark.parametrize("stream", ["a}b", "{}orders", "}{"])
def test_stream_name_without_companion_keys_in_its_slot_is_rejected(stream: str) -> None:
    access = RedisSettings(url="redis://redis", cluster=True)
    with pytest.raises(InvalidSettings, match="stores additional keys in the hash slot of the stream"):
        StreamManager.from_settings(access, stream)
    StreamManager.from_settings(RedisSettings(url="redis://redis"), stream)


@pytest.mark.parametrize("stream", ["orders", "{shop}:orders", "a{b", "{a}{b}", "a{b}c}d"])
def test_companion_keys_share_the_slot_of_every_other_stream_name(stream: str) -> None:
    StreamManager.from_settings(RedisSettings(url="redis://redis", cluster=True), stream)
    assert key_slot(group_key(stream, GROUP, "postponed").encode()) == key_slot(stream.encode())
