"""Records what Dynamo's selection costs: for several settings and random states, what each rank had and the cost of the one chosen.

usage: python -P record_routing_vectors.py > test/fixtures/dynamo/routing-vectors.json
needs an interpreter with the wheels, which also runs selection.py"""

import json
import os
import random
import subprocess
import sys

SETTINGS = [
    {},
    {"KV_OVERLAP_SCORE_CREDIT": "0"},
    {"KV_OVERLAP_SCORE_CREDIT": "0.5"},
    {"PREFILL_LOAD_SCALE": "2"},
    {"PREFILL_LOAD_SCALE": "0"},
    {"DECODE_ACTIVE_REQUEST_WEIGHT": "3"},
    {"KV_OVERLAP_SCORE_CREDIT_DECAY": "1"},
    {"HOST_CACHE_HIT_WEIGHT": "0.3", "DISK_CACHE_HIT_WEIGHT": "0.1"},
    {"ASSUME_KV_REUSE": "false"},
    {"TRACK_PREFILL_TOKENS": "false"},
    {"KV_OVERLAP_SCORE_CREDIT": "0", "ASSUME_KV_REUSE": "false", "TRACK_PREFILL_TOKENS": "false"},
]
CASES = 6
R = random.Random(20)


def record(settings, block_size):
    environment = {**os.environ, **{f"DYN_ROUTER_{name}": value for name, value in settings.items()}}
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "selection.py")
    oracle = subprocess.Popen([sys.executable, "-P", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(command, **members):
        oracle.stdin.write(json.dumps({"command": command, **members}) + "\n")
        oracle.stdin.flush()
        answer = json.loads(oracle.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    ids = [1, 2, 3, 4]
    shape = {"data_parallel_start_rank": 0, "data_parallel_size": 1, "max_num_batched_tokens": 8192, "total_kv_blocks": 1000}
    ask("workers", block_size=block_size, workers=[{"worker_id": worker, **shape} for worker in ids])
    vectors = []
    for case in range(CASES):
        blocks = R.randint(3, 24)
        tokens = [R.randrange(50000) for _ in range(blocks * block_size + R.randrange(block_size))]
        expected = []
        for worker in ids:
            first = 0
            for medium in ("GPU", "CPU", "DISK"):
                end = min(blocks, first + R.choice([0, R.randint(0, blocks)]))
                if end > first:
                    hashes = [case * 1000 + block + 1 for block in range(first, end)]
                    parent = {} if first == 0 else {"parent": case * 1000 + first}
                    part = tokens[first * block_size : end * block_size]
                    ask("store", worker_id=worker, dp_rank=0, medium=medium, token_ids=part, block_hashes=hashes, **parent)
                first = end
            expected.append({"worker_id": worker, "dp_rank": 0, "total": first})
        overlaps = {rank["worker_id"]: rank for rank in ask("overlaps", token_ids=tokens, expected=expected)}
        for number in range(R.choice([0, 1, 2, 3])):
            own = tokens[: R.randint(0, blocks) * block_size] + [R.randrange(50000) for _ in range(R.randint(1, 40 * block_size))]
            name = f"{case}-{number}"
            ask("reserve", request={"token_ids": own, "selection_id": name, "allowed_worker_ids": [R.choice(ids)]})
            if R.random() < 0.3:
                ask("complete", id=name)
        loads = {rank["worker_id"]: rank for rank in ask("loads")}
        potential = {rank["worker_id"]: rank for rank in ask("potential", request={"token_ids": tokens})}
        choice = ask("select", request={"token_ids": tokens})
        ranks = [
            [
                loads[worker]["potential_prefill_tokens"],
                potential[worker]["potential_decode_blocks"],
                loads[worker]["active_requests"],
                overlaps[worker]["device_blocks"],
                overlaps[worker]["host_pinned_extension_blocks"],
                overlaps[worker]["disk_extension_blocks"],
            ]
            for worker in ids
        ]
        vectors.append({"blockSize": block_size, "isl": len(tokens), "ranks": ranks, "chosen": choice["worker_id"] - 1, "cost": choice["cost"]})
    oracle.stdin.close()
    oracle.wait()
    return vectors


sets = []
for index, settings in enumerate(SETTINGS):
    variables = {f"DYN_ROUTER_{name}": value for name, value in settings.items()}
    sets.append({"environment": variables, "vectors": record(settings, [4, 16, 7][index % 3])})
origin = "Dynamo 1.6.1, dynamo._core.SelectionService, by test/dynamo/oracles/record_routing_vectors.py"
rank = "active prefill tokens, decode blocks with the request, active requests, blocks on device, then host, then disk"
print(json.dumps({"origin": origin, "rank": rank, "sets": sets}, separators=(",", ":")))
