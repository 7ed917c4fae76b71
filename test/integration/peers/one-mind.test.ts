/** Replicas that share their state decide like one picker; replicas that do not, do not. */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Placed, place, type Replicas, startReplicas } from "./replicas.ts";

const endpoints = Array.from({ length: 6 }, (_, index) => `127.0.0.1:${index + 1}`);

const config = `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - {type: first-in-order, module: ./first-in-order.ts}
  - {type: token-load-scorer, parameters: {queueThresholdTokens: 8192}}
  - {type: prefix-cache-scorer}
dataLayer: {injectDefaults: false}
schedulingProfiles:
  - name: default
    plugins:
      - {pluginRef: prefix-cache-scorer, weight: 2}
      - {pluginRef: token-load-scorer, weight: 3}
      - {pluginRef: first-in-order, weight: 0.001}
`;

const sessions = 8;
const turns = 5;
/** Requests in flight at once. */
const held = 12;
/** One of so many clients leaves before its answer, and what was learnt of its prompt is taken back. */
const leaves = 7;
/** Requests that have nothing in common, all in flight together. */
const strangers = 12;

interface Turn {
  readonly session: number;
  readonly prompt: string;
}

/** Conversations that grow, one turn of each after the other; the first turn of each has a length of its own. */
function stream(): readonly Turn[] {
  const words = (session: number, turn: number): string =>
    `session ${session}, turn ${turn}: `.padEnd(600 + 90 * ((7 * session + 3 * turn) % 5), `${session}${turn} `);
  return Array.from({ length: sessions * turns }, (_, index) => {
    const session = index % sessions;
    const turn = Math.floor(index / sessions);
    return { session, prompt: Array.from({ length: turn + 1 }, (_unused, before) => words(session, before)).join("") };
  });
}

interface Outcome {
  /** Where each request went. */
  readonly placements: readonly string[];
  /** Share of later turns that went where the turn before them was. */
  readonly hitRate: number;
  /** Most of the strangers on one endpoint. */
  readonly highest: number;
}

async function run(replicas: Replicas): Promise<Outcome> {
  const placements: string[] = [];
  const flight: Placed[] = [];
  const replicaOf = (index: number) => replicas.all[index % replicas.all.length] ?? fail();
  const before = new Map<number, string>();
  let hits = 0;
  for (const [index, { session, prompt }] of stream().entries()) {
    const placed = await place(replicaOf(index), prompt);
    placements.push(placed.endpoint);
    if (before.get(session) === placed.endpoint) hits++;
    before.set(session, placed.endpoint);
    flight.push(placed);
    const oldest = flight.length > held ? flight.shift() : undefined;
    if (index % leaves === 0) oldest?.leave();
    else oldest?.answer();
    await replicas.settled(flight.length);
  }
  for (const placed of flight.splice(0)) placed.answer();
  await replicas.settled(0);
  for (let index = 0; index < strangers; index++) {
    const placed = await place(replicaOf(index), `stranger ${index} `.repeat(60));
    placements.push(placed.endpoint);
    flight.push(placed);
    await replicas.settled(flight.length);
  }
  const highest = Math.max(...endpoints.map((one) => flight.filter(({ endpoint }) => endpoint === one).length));
  for (const placed of flight) placed.answer();
  await replicas.settled(0);
  return { placements, hitRate: hits / (sessions * (turns - 1)), highest };
}

function fail(): never {
  throw new Error("no replica");
}

describe("three replicas", () => {
  let one: Outcome;
  let synced: Outcome;
  let unsynced: Outcome;

  beforeAll(async () => {
    const outcomeOf = async (count: number, isSynced: boolean): Promise<Outcome> => {
      const replicas = await startReplicas({
        count,
        isSynced,
        endpoints,
        config,
        files: ["test/integration/peers/first-in-order.ts"],
      });
      try {
        return await run(replicas);
      } finally {
        await replicas.close();
      }
    };
    one = await outcomeOf(1, false);
    synced = await outcomeOf(3, true);
    unsynced = await outcomeOf(3, false);
  }, 300_000);

  afterAll(() => {
    for (const [who, { hitRate, highest }] of Object.entries({ one, synced, unsynced })) {
      process.stdout.write(`${who}: hit rate ${hitRate.toFixed(2)}, highest load ${highest}\n`);
    }
  });

  it("that share their state place every request where one picker would", () => {
    expect(synced.placements).toEqual(one.placements);
  });

  it("that do not send conversations elsewhere, and pile requests up", () => {
    expect(unsynced.placements).not.toEqual(one.placements);
    expect(unsynced.hitRate).toBeLessThan(one.hitRate);
    expect(unsynced.highest).toBeGreaterThan(one.highest);
  });
});
