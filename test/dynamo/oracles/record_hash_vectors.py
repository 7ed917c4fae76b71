"""Records block hashes of dynamo._core.compute_block_hash_for_seq and XXH3-64 of the xxhash package into test/fixtures/dynamo/hash-vectors.json."""
import json
import os
import random
import struct

import xxhash
from dynamo._core import compute_block_hash_for_seq

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures", "dynamo")
draw = random.Random(7)


def some(count, below=151000):
    return [draw.randrange(below) for _ in range(count)]


def objects(*hashes):
    return list(hashes)


def chain(blocks):
    out = []
    for block in blocks:
        out.append(block if not out else xxhash.xxh3_64_intdigest(struct.pack("<QQ", out[-1], block), seed=1337))
    return out


first8 = list(range(1, 9))
cases = [
    ("no tokens", [], 16, {}),
    ("fewer than a block", [1, 2, 3], 4, {}),
    ("one block", [1, 2, 3, 4], 4, {}),
    ("an incomplete last block", [1, 2, 3, 4, 5, 6, 7], 4, {}),
    ("three blocks", list(range(1, 13)), 4, {}),
    ("blocks of 1", [0, 1, 2, 4294967295], 1, {}),
    ("blocks of 2", [7, 7, 7, 7], 2, {}),
    ("blocks of 3", some(10), 3, {}),
    ("blocks of 7", some(30), 7, {}),
    ("blocks of 16", some(64), 16, {}),
    ("blocks of 32", some(70), 32, {}),
    ("blocks of 48", some(100), 48, {}),
    ("blocks of 64", some(200), 64, {}),
    ("blocks of 128", some(300), 128, {}),
    ("blocks of 512", some(1030), 512, {}),
    ("the largest token ids", [4294967295] * 8, 4, {}),
    ("zeros", [0] * 32, 16, {}),
    ("an adapter", first8, 4, {"lora_name": "my-lora"}),
    ("an empty adapter", first8, 4, {"lora_name": ""}),
    ("an adapter beyond ASCII", first8, 4, {"lora_name": "\u9002\u914d\u5668-\u00e9"}),
    ("an adapter of 300 letters", first8, 4, {"lora_name": "x" * 300}),
    ("a salt", first8, 4, {"cache_namespace": "tenant-a"}),
    ("an empty salt", first8, 4, {"cache_namespace": ""}),
    ("a blank salt", first8, 4, {"cache_namespace": " "}),
    ("adapter and salt", first8, 4, {"lora_name": "my-lora", "cache_namespace": "tenant-a"}),
    ("adapter and salt of one text", first8, 4, {"lora_name": "same", "cache_namespace": "same"}),
    ("adapter and salt over long blocks", some(200), 64, {"lora_name": "l", "cache_namespace": "s"}),
    ("eagle, 9 of 4", list(range(1, 10)), 4, {"is_eagle": True}),
    ("eagle, 8 of 4", first8, 4, {"is_eagle": True}),
    ("eagle, one token short", [1, 2, 3, 4], 4, {"is_eagle": True}),
    ("eagle, one block", [1, 2, 3, 4, 5], 4, {"is_eagle": True}),
    ("eagle, 70 of 16", some(70), 16, {"is_eagle": True}),
    ("eagle with adapter and salt", list(range(1, 10)), 4, {"is_eagle": True, "lora_name": "l", "cache_namespace": "s"}),
    ("one object", [1, 2, 3, 4], 2, {"mm": [objects(42), None]}),
    ("two objects out of order", list(range(8)), 4, {"mm": [objects(9, 3), objects(3, 9)]}),
    ("an object of 64 bits", list(range(8)), 4, {"mm": [None, objects((1 << 64) - 1)]}),
    ("objects in the first block only", list(range(12)), 4, {"mm": [objects(5)]}),
    ("an object in a long block", some(200), 64, {"mm": [None, objects(1, 1 << 63), None]}),
    ("object and adapter", list(range(4)), 4, {"mm": [objects(42)], "lora_name": "my-lora"}),
    ("object in an eagle block", some(9), 4, {"mm": [None, objects(8)], "is_eagle": True}),
]
blocks = []
for name, tokens, size, options in cases:
    call = {key: value for key, value in options.items() if key != "mm"}
    if "mm" in options:
        call["block_mm_infos"] = [
            None if block is None else {"mm_objects": [{"mm_hash": value, "offsets": [[0, 1]]} for value in block]}
            for block in options["mm"]
        ]
    hashes = compute_block_hash_for_seq(tokens, size, **call)
    row = {"name": name, "tokens": tokens, "blockSize": size}
    if "lora_name" in options:
        row["loraName"] = options["lora_name"]
    if "cache_namespace" in options:
        row["cacheSalt"] = options["cache_namespace"]
    if options.get("is_eagle"):
        row["isEagle"] = True
    if "mm" in options:
        row["mmHashes"] = [None if block is None else [str(value) for value in block] for block in options["mm"]]
    row["blockHashes"] = [str(value) for value in hashes]
    row["sequenceHashes"] = [str(value) for value in chain(hashes)]
    blocks.append(row)

data = bytes((i * 131 + (i >> 3) * 7) & 255 for i in range(150000))
lengths = [*range(0, 34), 63, 64, 65, 95, 96, 97, 127, 128, 129, 143, 144, 200, 239, 240, 241, 255, 256, 257, 511, 512, 1023, 1024, 1025, 1088, 1089]
lengths += [2048, 2049, 32768, 32769, 61440, 61441, 62464, 62465, 65536, 122880, 122881, 122944, 150000]
xxh3 = [
    [length, str(seed), str(xxhash.xxh3_64_intdigest(data[:length], seed=seed))]
    for length in lengths
    for seed in (0, 1337, (1 << 64) - 2)
]
with open(os.path.join(ROOT, "hash-vectors.json"), "w") as file:
    file.write('{\n"blocks": [\n')
    file.write(",\n".join(json.dumps(row, separators=(",", ":")) for row in blocks))
    file.write('\n],\n"xxh3": [\n')
    file.write(",\n".join(json.dumps(row, separators=(",", ":")) for row in xxh3))
    file.write("\n]\n}\n")
