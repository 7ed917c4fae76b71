import { afterEach, describe, expect, it } from "@jest/globals";
import type { PoolReadiness } from "../../../src/app/pool-readiness.ts";
import { watchReadiness } from "../../../src/app/readiness-watch.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { until } from "../dynamo/until.ts";

const open: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of open.splice(0)) await close();
});

function watch(pools: Map<string, PoolReadiness>) {
  const said: string[] = [];
  const say = (fields: object, message: string): void => void said.push(`${message} ${JSON.stringify(fields)}`);
  let changes = 0;
  let looks = 0;
  const watching = watchReadiness({
    pools: () => pools,
    isReady: (name) =>
      (name === undefined ? [...pools.values()] : [pools.get(name)]).some((one) => one?.kind === "ready"),
    looked: () => {
      looks++;
    },
    changed: () => {
      changes++;
    },
    log: { ...silentLogger, info: say, warn: say },
    lookMs: 1,
  });
  open.push(() => watching.close());
  const looked = async (): Promise<void> => {
    const target = looks + 2;
    await until(() => looks >= target);
  };
  return { said, looked, changes: () => changes };
}

describe("the watch of readiness", () => {
  it("says from the start why a pool is not served, once, and what becomes of it", async () => {
    const pools = new Map<string, PoolReadiness>([["", { kind: "unserved", reason: "missing" }]]);
    const { said, looked, changes } = watch(pools);
    expect(said).toEqual(['the pool cannot be served {"reason":"missing"}']);
    await looked();
    expect([said.length, changes()]).toEqual([1, 0]);
    pools.set("", { kind: "coming", reason: "listing" });
    await looked();
    pools.set("", { kind: "ready" });
    await looked();
    expect(said.slice(1)).toEqual([
      'the pool is not ready yet {"reason":"listing"}',
      "the pool is ready {}",
      'readiness changed {"isReady":true}',
    ]);
    expect(changes()).toBe(1);
  });

  it("tells whoever announces it when one pool of several changes, although the whole does not", async () => {
    const pools = new Map<string, PoolReadiness>([
      ["a", { kind: "ready" }],
      ["b", { kind: "ready" }],
    ]);
    const { said, looked, changes } = watch(pools);
    expect([said, changes()]).toEqual([['readiness changed {"isReady":true}'], 1]);
    pools.set("b", { kind: "unserved", reason: "missing" });
    await looked();
    expect([said.at(-1), changes()]).toEqual(['the pool cannot be served {"pool":"b","reason":"missing"}', 2]);
  });
});
