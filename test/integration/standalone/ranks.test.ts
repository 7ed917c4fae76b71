/** An engine with several data-parallel ranks that publish on one port: each is a rank of its own to the router, with its own blocks and load. */

import { afterEach, describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { Publisher } from "zeromq";
import { createEndpointStore } from "../../../src/data/endpoint-store.ts";
import { eventPortLabel } from "../../../src/data/kv-events/endpoint-feeds.ts";
import type { PlanOutcome } from "../../../src/prefill-router/contracts.ts";
import { readFleetSettings } from "../../../src/prefill-router/fleet/fleet-settings.ts";
import type { SetRoute } from "../../../src/prefill-router/fleet/route-table.ts";
import { EndpointRoutes } from "../../../src/prefill-router/standalone/endpoint-routes.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { eventually } from "../../stack.ts";

const open: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

const blockSize = 4;
let sequence = 0n;

/** A batch as vLLM sends it: one stored block, the first of a prompt. */
async function publish(socket: Publisher, rank: number, hash: number, tokens: readonly number[]): Promise<void> {
  const stored = ["BlockStored", [hash], null, tokens, blockSize, null, "GPU"];
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(sequence++);
  await socket.send(["", number, encode([Date.now() / 1000, [stored], rank])]);
}

function planned(route: SetRoute, tokens: readonly number[]): Extract<PlanOutcome, { kind: "planned" }>["plan"] {
  const ids = Uint32Array.from(tokens);
  const outcomes: PlanOutcome[] = [];
  const hashes = route.hash(ids, undefined, undefined);
  route.router.plan({ requestId: "r", isl: ids.length, ...hashes }, (outcome) => outcomes.push(outcome));
  const [outcome] = outcomes;
  if (outcome?.kind !== "planned") throw new Error(`not planned: ${JSON.stringify(outcome)}`);
  return outcome.plan;
}

describe("an engine with ranks", () => {
  it("is chosen for by what each rank holds", async () => {
    const socket = new Publisher({ linger: 0 });
    await socket.bind("tcp://127.0.0.1:0");
    open.push(() => socket.close());
    const port = socket.lastEndpoint?.split(":").at(-1) ?? "";
    const store = createEndpointStore();
    const routes = new EndpointRoutes({
      endpoints: store,
      engines: { modelName: "m", blockSizeTokens: blockSize, kvEventPort: 5557 },
      settings: readFleetSettings({}, {}).settings,
      tokenizer: undefined,
      log: silentLogger,
      now: () => performance.now(),
      random: () => 0.5,
      observersOf: () => [],
    });
    open.push(() => routes.close());
    const labels = new Map([[eventPortLabel, port]]);
    store.upsert("test", { namespace: "ns", name: "a", address: "127.0.0.1", port: 8000, labels });
    routes.begin();
    const lookup = routes.find("m");
    if (lookup.kind !== "found") throw new Error(lookup.kind);
    const { route } = lookup;
    const prompts = [0, 1, 2].map((rank) => Array.from({ length: blockSize }, (_, index) => 100 * rank + index));
    await eventually("three ranks have blocks", async () => {
      for (const [rank, tokens] of prompts.entries()) await publish(socket, rank, rank + 1, tokens);
      const [worker] = route.router.snapshot().workers;
      return worker?.worker.dataParallelSize === 3;
    });
    for (const [rank, tokens] of prompts.entries()) {
      await eventually(`the prompt goes to rank ${rank}`, () => {
        const { decode, booking } = planned(route, tokens);
        booking.free();
        return Promise.resolve(decode.dpRank === rank && decode.deviceBlocks === 1);
      });
    }
    // A liar's rank is nobody's.
    await publish(socket, 4_000_000_000, 9, prompts[0] ?? []);
    await publish(socket, 0, 10, [1, 2, 3, 4]);
    await eventually("all is heard", () => {
      const { decode, booking } = planned(route, [1, 2, 3, 4]);
      booking.free();
      return Promise.resolve(decode.deviceBlocks === 1);
    });
    expect(route.router.snapshot().workers[0]?.worker.dataParallelSize).toBe(3);
    expect(route.router.snapshot().bookings).toBe(0);
  });
});
