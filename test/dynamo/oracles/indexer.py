"""Dynamo's own indexers, driven line by line: each line of stdin is a JSON command, each line of stdout its answer. u64 are decimal strings.

radix     runs cases through dynamo._core.RadixTree: a case is a list of steps, the answer has the scores of each of its queries
time      times the same tree: stored events and queries, in seconds of processor time
open      starts a selection service with workers that publish raw engine events
tiers     publishes events, waits until the service has applied them, and answers overlap scores of prompts"""

import asyncio
import json
import os
import struct
import sys
import time

answers = os.fdopen(os.dup(1), "w", buffering=1)
quiet = os.open(os.devnull, os.O_WRONLY)
os.dup2(quiet, 1)
os.environ["DYN_LOG"] = "off"
os.dup2(quiet, 2)

import msgpack  # noqa: E402: after the output has been turned away
import zmq  # noqa: E402
from dynamo._core import RadixTree, SelectionService  # noqa: E402

MODEL = "m"
TIER_MEDIUM = ["GPU", "CPU", "DISK", "EXTERNAL"]
service = None
block_size = 4
publishers = {}
sequence = {}
sentinels = 1_000_000


def event(number, data, rank):
    return json.dumps({"event_id": number, "data": data, "dp_rank": rank}).encode()


def stored(parent, blocks):
    return {
        "stored": {
            "parent_hash": None if parent is None else int(parent),
            "blocks": [{"block_hash": int(name), "tokens_hash": int(tokens)} for name, tokens in blocks],
        }
    }


def run_case(steps):
    tree = RadixTree()
    out = []
    for number, step in enumerate(steps):
        kind = step["kind"]
        if kind == "query":
            scores = tree.find_matches([int(block) for block in step["blocks"]]).scores
            out.append([[worker, rank, depth] for (worker, rank), depth in sorted(scores.items())])
            continue
        if kind == "remove_worker":
            tree.remove_worker(step["worker"])
            continue
        if kind == "store":
            data = stored(step["parent"], step["blocks"])
        elif kind == "remove":
            data = {"removed": {"block_hashes": [int(name) for name in step["names"]]}}
        else:
            data = "cleared"
        try:
            tree.apply_event(step["worker"], event(number, data, step["rank"]))
        except RuntimeError:
            pass  # A refused event: unknown parent, unknown block.
    return out


async def radix(command):
    return [run_case(steps) for steps in command["cases"]]


async def timing(command):
    """Every worker stores its chains; those of the first are then asked for."""
    events = [
        (worker, event(number, stored(None, chain), 0))
        for worker, chains in enumerate(command["chains"])
        for number, chain in enumerate(chains)
    ]
    queries = [[int(tokens) for _, tokens in chain] for chain in command["chains"][0]]
    best_store = best_query = float("inf")
    for _ in range(command["rounds"]):
        tree = RadixTree()
        start = time.process_time()
        for worker, data in events:
            tree.apply_event(worker, data)
        best_store = min(best_store, time.process_time() - start)
        start = time.process_time()
        for query in queries:
            tree.find_matches(query)
        best_query = min(best_query, time.process_time() - start)
    return {"store": best_store, "query": best_query}


async def open_service(command):
    global service
    service = SelectionService(indexer_threads=1)
    context = zmq.Context()
    for worker in command["workers"]:
        endpoints = {}
        for rank in range(command["ranks"]):
            publisher = context.socket(zmq.PUB)
            publisher.setsockopt(zmq.LINGER, 0)
            publisher.setsockopt(zmq.SNDHWM, 0)
            publishers[(worker, rank)] = publisher
            endpoints[rank] = f"tcp://127.0.0.1:{publisher.bind_to_random_port('tcp://127.0.0.1')}"
        await service.upsert_worker(
            {
                "worker_id": worker,
                "model_name": MODEL,
                "block_size": block_size,
                "endpoint": "http://127.0.0.1:1",
                "kv_events_endpoints": endpoints,
                "data_parallel_start_rank": 0,
                "data_parallel_size": command["ranks"],
            }
        )
    # A subscriber that joins late misses what was published before.
    for key in publishers:
        await settle([key])
    return {}


def publish(worker, rank, event):
    key = (worker, rank)
    number = sequence.get(key, 0)
    sequence[key] = number + 1
    publishers[key].send_multipart([b"", struct.pack(">Q", number), msgpack.packb([time.time(), [event], rank])])


def engine_stored(worker, rank, tier, parent, names, blocks):
    publish(
        worker,
        rank,
        {
            "type": "BlockStored",
            "block_hashes": [int(name) for name in names],
            "parent_block_hash": None if parent is None else int(parent),
            "token_ids": [block for block in blocks for _ in range(block_size)],
            "block_size": block_size,
            "medium": TIER_MEDIUM[tier],
        },
    )


async def scores(blocks):
    tokens = [block for block in blocks for _ in range(block_size)]
    answer = await service.overlap_scores({"model_name": MODEL, "token_ids": tokens})
    names = ("device_blocks", "host_pinned_extension_blocks", "disk_extension_blocks")
    return {(row["worker_id"], row["dp_rank"]): [row[name] for name in names] for row in answer["workers"]}


async def settle(keys):
    """Waits until an event of each rank on each tier has been applied: those before it have been, too."""
    global sentinels
    end = time.time() + 20
    for worker, rank in keys:
        for tier in range(4):
            while True:
                sentinels += 1
                block = sentinels
                engine_stored(worker, rank, tier, None, [(1 << 40) + block], [block])
                until = time.time() + 0.5
                while time.time() < until:
                    if sum((await scores([block])).get((worker, rank), [0])) == 1:
                        break
                    await asyncio.sleep(0.0005)
                else:
                    if time.time() > end:
                        raise RuntimeError("events were not applied")
                    continue
                break


async def tiers(command):
    keys = list(publishers)
    for worker, rank in keys:
        publish(worker, rank, {"type": "AllBlocksCleared"})
    for step in command["steps"]:
        if step["kind"] == "store":
            engine_stored(step["worker"], step["rank"], step["tier"], step["parent"], step["names"], step["blocks"])
        else:
            publish(
                step["worker"],
                step["rank"],
                {
                    "type": "BlockRemoved",
                    "block_hashes": [int(name) for name in step["names"]],
                    "medium": TIER_MEDIUM[step["tier"]],
                },
            )
    await settle(keys)
    out = []
    for query in command["queries"]:
        rows = await scores(query)
        out.append([[worker, rank, *rows.get((worker, rank), [0, 0, 0])] for worker, rank in keys])
    return out


COMMANDS = {"radix": radix, "time": timing, "open": open_service, "tiers": tiers}


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            reply = {"answer": await COMMANDS[command["command"]](command)}
        except Exception as error:  # noqa: BLE001: whatever it is, the test is to see it
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")


asyncio.run(main())
