"""Dynamo's own queue, driven line by line: each line of stdin is a JSON command, each line of stdout its answer. Its settings are the
DYN_ROUTER_* variables of this process, its classes those of DYN_ROUTER_POLICY_CONFIG.

commands: play"""

import asyncio
import json
import os
import sys

answers = os.fdopen(os.dup(1), "w", buffering=1)
quiet = os.open(os.devnull, os.O_WRONLY)
os.dup2(quiet, 1)

from dynamo._core import SelectionService  # noqa: E402: what it prints at loading is no answer

MODEL = "m"


def reserve(service, request):
    members = {
        "model_name": MODEL,
        "selection_id": request["id"],
        # Prompts share no block: each begins with a token of its own.
        "token_ids": [request["number"]] * request["isl"],
        "priority_jump": request.get("priority_jump", 0.0),
        "strict_priority": request.get("strict_priority", 0),
    }
    if request.get("pin") is not None:
        members["pinned_worker"] = {"worker_id": request["pin"], "dp_rank": 0}
    return service.select_and_reserve(members)


async def play(command):
    """Fills every worker, lets the requests arrive one after the other, then ends what runs, one at a time and the oldest of a worker first.
    Answers with the order in which requests went, and with those refused."""
    service = SelectionService(indexer_threads=1)
    order, refused, running = [], [], asyncio.Queue()
    waiting = {request["id"]: request for request in command["requests"]}
    try:
        for worker in command["workers"]:
            await service.upsert_worker(
                {"model_name": MODEL, "block_size": 16, "endpoint": "http://127.0.0.1:1", "kv_events_endpoints": {}, **worker}
            )
        while not service.ready()["ready"]:
            await asyncio.sleep(0.01)
        for filler in command["fillers"]:
            await reserve(service, filler)

        async def run(request):
            try:
                await reserve(service, request)
                order.append(request["id"])
                running.put_nowait(request["id"])
            except Exception as error:  # noqa: BLE001: a refusal is an answer
                refused.append([request["id"], str(error)])
                del waiting[request["id"]]

        tasks = []
        for request in command["requests"]:
            tasks.append(asyncio.create_task(run(request)))
            await asyncio.sleep(0.004)
        idle = {None}
        for filler in command["fillers"]:
            await service.free_reservation(filler["id"])
            idle.add(filler["pin"])
            while any(request.get("pin") in idle for request in waiting.values()):
                gone = await asyncio.wait_for(running.get(), 20)
                del waiting[gone]
                await service.free_reservation(gone)
        return {"order": order, "refused": refused}
    finally:
        service.shutdown()


commands = {"play": play}


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"answer": await commands[command["command"]](command)}
        except Exception as error:  # noqa: BLE001: told to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


asyncio.run(main())
