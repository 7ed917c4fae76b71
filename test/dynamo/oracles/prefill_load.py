"""Dynamo's own router over the workers of an endpoint, with the prefill-load model of DYN_AIS_PERF_CONFIG, driven line by line: each line of stdin is a
JSON command, each line of stdout its answer. Every answer says between which two moments it came about, in milliseconds of a monotonic clock.

commands: open, book, complete, free, left"""

import asyncio
import json
import os
import sys
import time

answers = os.fdopen(os.dup(1), "w", buffering=1)
quiet = os.open(os.devnull, os.O_WRONLY)
os.dup2(quiet, 1)

from dynamo.llm import AisPerfConfig, KvRouter, KvRouterConfig  # noqa: E402: what it prints at loading is no answer
from dynamo.runtime import DistributedRuntime  # noqa: E402

router = None


async def open(command):
    """Waits until a worker of the endpoint is there."""
    global router
    runtime = DistributedRuntime(asyncio.get_running_loop(), os.environ["DYN_DISCOVERY_BACKEND"], "tcp")
    endpoint = runtime.endpoint(command["endpoint"])
    client = await endpoint.client()
    await client.wait_for_instances()
    config = KvRouterConfig(router_prefill_load_model="ais")
    estimator = AisPerfConfig(config=json.loads(os.environ["DYN_AIS_PERF_CONFIG"]))
    router = KvRouter(endpoint=endpoint, block_size=command["block_size"], kv_router_config=config, ais_perf_config=estimator)
    while not await router.get_potential_loads([]):
        await asyncio.sleep(0.01)


async def book(command):
    await router.best_worker(command["token_ids"], request_id=command["id"])


async def complete(command):
    await router.mark_prefill_complete(command["id"])


async def free(command):
    await router.free(command["id"])


async def left(_command):
    return sum(load["potential_prefill_tokens"] for load in await router.get_potential_loads([]))


commands = {run.__name__: run for run in (open, book, complete, free, left)}


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            from_ms = time.monotonic() * 1000
            value = await commands[command["command"]](command)
            answer = {"answer": {"value": value, "from_ms": from_ms, "to_ms": time.monotonic() * 1000}}
        except Exception as error:  # noqa: BLE001: told to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
    os._exit(0)


asyncio.run(main())
