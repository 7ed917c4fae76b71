"""Dynamo's own KV router over a store that its workers share, driven line by line: each line of stdin is a JSON command, each line of stdout its
answer. Where its workers are, and where the store's events are, is said by this process's DYN_* variables. Worker ids are decimal strings.

open      a router of an endpoint's workers, with the weight of a shared block
scores    how many blocks of a prompt each worker holds, and the ranges of them that the store has
choose    the worker of a prompt; one with an id stays booked"""

import asyncio
import json
import os
import sys

answers = os.fdopen(os.dup(1), "w", buffering=1)
quiet = os.open(os.devnull, os.O_WRONLY)
os.dup2(quiet, 1)
os.environ["DYN_LOG"] = "off"

from dynamo._core import DistributedRuntime, KvRouter, KvRouterConfig  # noqa: E402: what it prints at loading is no answer

runtime = None
router = None


async def open_router(command):
    global runtime, router
    runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp", event_plane="zmq")
    config = KvRouterConfig(shared_cache_type="hicache", shared_cache_multiplier=command["multiplier"])
    router = KvRouter(runtime.endpoint(command["endpoint"]), command["block_size"], config)
    return True


async def scores(command):
    found = await router.get_overlap_scores(command["tokens"])
    return {
        "blocks": found["num_blocks"],
        "held": {str(worker["worker_id"]): worker["device_blocks"] for worker in found["workers"]},
        "shared": found["shared_cache"],
    }


async def choose(command):
    worker, _rank, overlap = await router.best_worker(command["tokens"], request_id=command.get("id"))
    return {"worker": str(worker), "overlap": overlap}


commands = {"open": open_router, "scores": scores, "choose": choose}


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"answer": await commands[command["command"]](command)}
        except Exception as error:  # noqa: BLE001: told to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
    if runtime is not None:
        runtime.shutdown()


asyncio.run(main())
