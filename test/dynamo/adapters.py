"""Dynamo's mocker with LoRA adapters registered beside its model, as an engine that has loaded them does: the mocker has no flag for them.

usage: adapters.py NAME[,NAME...] [ARGUMENT OF dynamo.mocker...]"""

import asyncio
import sys

import uvloop
from dynamo.llm import ModelInput, ModelType, WorkerType, register_model
from dynamo.mocker import main as mocker

adapters = sys.argv.pop(1).split(",")
make_arguments = mocker.EntrypointArgs
run_input = mocker.run_input
model = {}
registrations = set()


def keep_arguments(**arguments):
    model.update(arguments)
    return make_arguments(**arguments)


async def register(runtime, endpoint_id):
    endpoint = runtime.endpoint(endpoint_id.removeprefix("dyn://"))
    role, needs = WorkerType.Aggregated, []
    if model["is_prefill"]:
        role, needs = WorkerType.Prefill, [[WorkerType.Decode]]
    if model["is_decode"]:
        role, needs = WorkerType.Decode, [[WorkerType.Prefill]]
    for name in adapters:
        await register_model(
            ModelInput.Tokens,
            ModelType.Empty if model["is_prefill"] else ModelType.Chat | ModelType.Completions,
            endpoint,
            str(model["model_path"]),
            worker_type=role,
            needs=needs,
            kv_cache_block_size=model["kv_cache_block_size"],
            runtime_config=model["runtime_config"],
            user_data={"lora_adapter": True, "lora_id": adapters.index(name) + 1},
            lora_name=name,
            base_model_path=str(model["model_path"]),
            ignore_weights=True,
        )


def run_with_adapters(runtime, endpoint_id, engine):
    future = run_input(runtime, endpoint_id, engine)
    registrations.add(asyncio.ensure_future(register(runtime, endpoint_id)))
    return future


mocker.EntrypointArgs = keep_arguments
mocker.run_input = run_with_adapters
uvloop.run(mocker.worker())
