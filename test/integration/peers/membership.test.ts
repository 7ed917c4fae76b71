/** Replicas that die, come back and leave, as processes: what of them counts in the decisions of the others. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../../stack.ts";
import { type Placed, place, type Replica, type ReplicaState, type Replicas, startReplicas } from "./replicas.ts";

const endpoints = ["127.0.0.1:1", "127.0.0.1:2"];
const config = `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: prefix-cache-scorer}, {type: active-request-scorer}]
dataLayer: {injectDefaults: false}
schedulingProfiles:
  - name: default
    plugins: [{pluginRef: prefix-cache-scorer, weight: 10}, {pluginRef: active-request-scorer, weight: 1}]
`;
const prompt = "the same beginning of all of them ".repeat(40);

let replicas: Replicas;
let secretFolder: string;
const open: Placed[] = [];

const at = (index: number): Replica => {
  const replica = replicas.all[index];
  if (replica === undefined) throw new Error("no replica");
  return replica;
};

async function send(index: number, text = prompt): Promise<string> {
  const placed = await place(at(index), text);
  open.push(placed);
  return placed.endpoint;
}

async function inFlightAt(index: number): Promise<number> {
  let sum = 0;
  for (const { requests } of (await at(index).loads()).values()) sum += requests;
  return sum;
}

beforeAll(async () => {
  secretFolder = mkdtempSync(join(tmpdir(), "signalbox-peers-"));
  writeFileSync(join(secretFolder, "secret"), "a secret for three replicas\n");
  replicas = await startReplicas({
    count: 3,
    isSynced: true,
    endpoints,
    config,
    args: [`--peer-secret-file=${join(secretFolder, "secret")}`],
  });
}, 60_000);

afterAll(async () => {
  await replicas.close();
  rmSync(secretFolder, { recursive: true, force: true });
});

afterEach(() => {
  for (const placed of open.splice(0)) placed.leave();
});

describe("a replica among others", () => {
  it("that is killed takes its load with it, and leaves what it taught", async () => {
    await replicas.settled(0);
    const home = await send(0);
    for (let i = 0; i < 3; i++) expect(await send(0)).toBe(home);
    await send(1);
    await replicas.settled(5);
    await replicas.kill(0);
    await eventually(
      "the killed one's load is gone",
      async () => (await inFlightAt(1)) === 1 && (await inFlightAt(2)) === 1,
      30_000,
    );
    expect(await send(2)).toBe(home);
    const { counters } = await at(1).debug<ReplicaState>("/debug/peers");
    expect(counters["silent"]).toBe(1);
  }, 60_000);

  it("that begins is told the others' load and what they know", async () => {
    const home = await send(1);
    await send(2);
    await replicas.settled(2);
    await replicas.restart(0);
    await replicas.settled(2);
    expect(await send(0)).toBe(home);
    await replicas.settled(3);
  }, 60_000);

  it("that ends in good order is not waited for", async () => {
    await replicas.settled(0);
    await send(1);
    await send(2);
    await replicas.settled(2);
    const { counters: before } = await at(1).debug<ReplicaState>("/debug/peers");
    at(2).child.signal("SIGTERM");
    await at(2).child.exited;
    await eventually("the load of the one that left is gone", async () => (await inFlightAt(1)) === 1, 30_000);
    const { counters } = await at(1).debug<ReplicaState>("/debug/peers");
    expect(counters["silent"]).toBe(before["silent"]);
  }, 60_000);

  it("shows its peers in its metrics", async () => {
    const page = await (await fetch(`http://127.0.0.1:${at(1).child.ready.metricsPort}/metrics`)).text();
    expect(page).toContain('llm_d_epp_peers{direction="heard"} 1');
    expect(page).toContain('llm_d_epp_peers{direction="listening"} 1');
    expect(page).toMatch(/llm_d_epp_peer_bytes_total\{direction="heard"\} [1-9]/);
    expect(page).toMatch(/llm_d_epp_peer_events_total\{what="silent"\} 1/);
  });
});
