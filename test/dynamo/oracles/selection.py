"""Dynamo's own selection, driven line by line: each line of stdin is a JSON command, each line of stdout its answer. Settings are the
DYN_ROUTER_* variables of this process; per-request overrides have no effect in this service. What a selection cost is read from its log.

commands: workers, store, overlaps, select, reserve, complete, output, free, loads, potential"""

import asyncio
import json
import os
import struct
import sys
import tempfile
import time

answers = os.fdopen(os.dup(1), "w", buffering=1)
log = tempfile.TemporaryFile()
os.dup2(log.fileno(), 1)
os.dup2(log.fileno(), 2)
reader = os.dup(log.fileno())
os.environ.update(
    DYN_LOG="warn,dynamo_kv_router::scheduling::selector=info", DYN_LOGGING_JSONL="1", DYN_LOGGING_CONSOLE_FORMAT="jsonl"
)

import msgpack  # noqa: E402: the service reads its settings when it is loaded
import zmq  # noqa: E402
from dynamo._core import SelectionService  # noqa: E402

MODEL = "m"
context = zmq.Context()
service = SelectionService(indexer_threads=1)
publishers = {}
block_size = 0
read_to = 0


def new_log():
    """Lines logged since the last call."""
    global read_to
    text = os.pread(reader, 1 << 24, read_to)
    read_to += len(text)
    return [json.loads(line) for line in text.splitlines() if line.startswith(b"{")]


async def logged_cost():
    """The cost of the selection that has just been answered: it is logged a moment later."""
    end = time.time() + 5
    while time.time() < end:
        for line in new_log():
            message = line.get("message", "")
            if message == "Selected worker":
                return line["logit"]
            if message.startswith("Selected pinned worker"):
                return float(message.split("logit: ")[1].split(",")[0])
        await asyncio.sleep(0.001)
    raise RuntimeError("no selection was logged")


async def workers(command):
    global block_size
    block_size = command["block_size"]
    for worker in command["workers"]:
        endpoints = {}
        for rank in range(worker["data_parallel_start_rank"], worker["data_parallel_start_rank"] + worker["data_parallel_size"]):
            publisher = context.socket(zmq.PUB)
            publisher.setsockopt(zmq.LINGER, 0)
            port = publisher.bind_to_random_port("tcp://127.0.0.1")
            publishers[(worker["worker_id"], rank)] = publisher
            endpoints[rank] = f"tcp://127.0.0.1:{port}"
        await service.upsert_worker(
            {"model_name": MODEL, "block_size": block_size, "endpoint": "http://127.0.0.1:1", "kv_events_endpoints": endpoints, **worker}
        )
    while not service.ready()["ready"]:
        await asyncio.sleep(0.01)
    # A subscriber that joins late misses what was published before: publish nothing until it has had time.
    await asyncio.sleep(0.5)
    return {}


sequence = {}


def publish(worker_id, rank, event):
    key = (worker_id, rank)
    number = sequence.get(key, 0)
    sequence[key] = number + 1
    publishers[key].send_multipart([b"", struct.pack(">Q", number), msgpack.packb([time.time(), [event], rank])])


async def store(command):
    tokens = command["token_ids"]
    publish(
        command["worker_id"],
        command["dp_rank"],
        {
            "type": "BlockStored",
            "block_hashes": command["block_hashes"],
            "parent_block_hash": command.get("parent"),
            "token_ids": tokens,
            "block_size": block_size,
            "medium": command["medium"],
        },
    )
    return {}


async def overlaps(command):
    """Blocks each rank holds, once they are at least what is expected of each."""
    expected = {(rank["worker_id"], rank["dp_rank"]): rank["total"] for rank in command["expected"]}
    end = time.time() + 10
    while True:
        ranks = (await service.overlap_scores({"model_name": MODEL, "token_ids": command["token_ids"]}))["workers"]
        if all(rank["disk_blocks"] >= expected.get((rank["worker_id"], rank["dp_rank"]), 0) for rank in ranks):
            return ranks
        if time.time() > end:
            raise RuntimeError(f"events were not applied: {ranks}, expected {expected}")
        await asyncio.sleep(0.002)


def shown(answer, cost):
    names = ("worker_id", "dp_rank", "effective_prefill_tokens", "potential_decode_blocks")
    return {**{name: answer[name] for name in names}, "cost": cost}


async def select(command):
    new_log()
    answer = await service.select({"model_name": MODEL, **command["request"]})
    return shown(answer, await logged_cost())


async def reserve(command):
    new_log()
    answer = await service.select_and_reserve({"model_name": MODEL, **command["request"]})
    return shown(answer, await logged_cost())


async def complete(command):
    await service.prefill_complete(command["id"])
    return {}


async def output(command):
    service.add_output_block(command["id"], decay_fraction=command.get("decay"))
    return {}


async def free(command):
    await service.free_reservation(command["id"])
    return {}


async def loads(_command):
    return service.loads()[0]["loads"]


async def potential(command):
    """What the loads would be with the prompt on each rank."""
    return await service.potential_loads({"model_name": MODEL, **command["request"]})


commands = {run.__name__: run for run in (workers, store, overlaps, select, reserve, complete, output, free, loads, potential)}


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"answer": await commands[command["command"]](command)}
        except Exception as error:  # noqa: BLE001: told to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
    service.shutdown()


asyncio.run(main())
