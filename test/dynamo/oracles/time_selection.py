"""CPU time of one selection of Dynamo's own service over loaded workers without KV events, in microseconds: with a prompt, which it hashes, and
with one shorter than a block. The call through Python is part of it.

usage: python -P time_selection.py WORKERS REQUESTS_PER_WORKER PROMPT_BLOCKS BLOCK_SIZE"""

import asyncio
import json
import os
import random
import sys
import time

os.environ.update(DYN_LOG="error", DYN_ROUTER_USE_KV_EVENTS="false")

from dynamo._core import SelectionService  # noqa: E402: the service reads its settings when it is loaded

WORKERS, REQUESTS, BLOCKS, BLOCK_SIZE = (int(argument) for argument in sys.argv[1:])
CALLS = 2000
R = random.Random(1)
half = BLOCKS // 2 * BLOCK_SIZE
prefixes = [[R.randrange(50000) for _ in range(half)] for _ in range(4)]


def prompt():
    return R.choice(prefixes) + [R.randrange(50000) for _ in range(half + 7)]


async def timed(service, requests):
    for index in range(CALLS // 4):
        await service.select(requests[index % len(requests)])
    before = time.process_time()
    for index in range(CALLS):
        await service.select(requests[index % len(requests)])
    return (time.process_time() - before) / CALLS * 1e6


async def main():
    service = SelectionService(indexer_threads=1)
    shape = {"data_parallel_start_rank": 0, "data_parallel_size": 1, "max_num_batched_tokens": 8192, "total_kv_blocks": 20000}
    for worker in range(WORKERS):
        identity = {"worker_id": worker + 1, "model_name": "m", "endpoint": "http://127.0.0.1:1", "block_size": BLOCK_SIZE}
        await service.upsert_worker({**identity, **shape})
    for number in range(WORKERS * REQUESTS):
        await service.select_and_reserve({"model_name": "m", "token_ids": prompt(), "selection_id": f"b{number}"})
    prompts = [prompt() for _ in range(64)]
    whole = await timed(service, [{"model_name": "m", "token_ids": tokens} for tokens in prompts])
    bare = await timed(service, [{"model_name": "m", "token_ids": tokens[: BLOCK_SIZE - 1]} for tokens in prompts])
    service.shutdown()
    print(json.dumps({"prompt": whole, "bare": bare}))


asyncio.run(main())
