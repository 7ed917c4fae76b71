"""CPU time of tokenizing texts one at a time with the wheels' own tokenizers library, in microseconds a text; and tokens a text.

usage: python -P time_tokens.py TOKENIZER_JSON < TEXTS, where TEXTS is JSON: lists of texts; the answer has an object for each list"""

import json
import os
import sys
import time

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")

from tokenizers import Tokenizer  # noqa: E402: it reads its settings when it is loaded

tokenizer = Tokenizer.from_file(sys.argv[1])


def timed(texts):
    half = len(texts) // 2
    for text in texts[:half]:
        tokenizer.encode(text)
    before = time.process_time()
    tokens = sum(len(tokenizer.encode(text).ids) for text in texts[half:])
    count = len(texts) - half
    return {"micros": (time.process_time() - before) / count * 1e6, "tokens": tokens / count}


print(json.dumps([timed(texts) for texts in json.load(sys.stdin)]))
