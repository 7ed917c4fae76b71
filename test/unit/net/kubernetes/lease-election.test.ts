/** Contenders over a store and clocks of the test's own: virtual time, lost requests, lost answers, partitions, pauses, clocks that run apart. */
import { describe, expect, it } from "@jest/globals";
import { KubernetesApiError } from "../../../../src/net/kubernetes/api-client.ts";
import { createLeaseStore, type Lease, type LeaseStore, microTime } from "../../../../src/net/kubernetes/lease.ts";
import {
  type ElectionClock,
  type ElectionEvent,
  type ElectionTimes,
  LeaseElection,
} from "../../../../src/net/kubernetes/lease-election.ts";
import fc from "../../../properties.ts";

/** Virtual time: what is due happens in order, and everything that it sets off before the next. */
class World {
  nowMs = 0;
  readonly #due: { readonly atMs: number; readonly order: number; readonly run: () => void }[] = [];
  #count = 0;
  afterEach: () => void = () => {};

  at(atMs: number, run: () => void): void {
    this.#due.push({ atMs: Math.max(atMs, this.nowMs), order: this.#count++, run });
    this.#due.sort((a, b) => a.atMs - b.atMs || a.order - b.order);
  }

  async runUntil(endMs: number): Promise<void> {
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      this.afterEach();
      const next = this.#due[0];
      if (next === undefined || next.atMs > endMs) break;
      this.#due.shift();
      this.nowMs = next.atMs;
      next.run();
    }
    this.nowMs = endMs;
    this.afterEach();
  }
}

interface Trouble {
  /** What requests that are sent now meet. */
  readonly kind: "none" | "unsent" | "unanswered" | "slow" | "paused";
}

/** One lease as an API server keeps it, with a wire of its own to each contender. */
class Server {
  readonly #world: World;
  #lease: Lease | undefined;
  #version = 0;
  writes = 0;

  constructor(world: World) {
    this.#world = world;
  }

  get lease(): Lease | undefined {
    return this.#lease;
  }

  remove(): void {
    this.#lease = undefined;
  }

  storeFor(wire: () => { readonly trouble: Trouble["kind"]; readonly latencyMs: number }): LeaseStore {
    const call = <Answer>(timeoutMs: number, act: () => Answer): Promise<Answer> => {
      const { trouble, latencyMs } = wire();
      const world = this.#world;
      const sentAtMs = world.nowMs;
      return new Promise((resolve, reject) => {
        world.at(sentAtMs + timeoutMs, () => reject(new KubernetesApiError("no answer in time", 0)));
        if (trouble === "unsent") return;
        const travelMs = trouble === "slow" ? latencyMs * 20 : latencyMs;
        world.at(sentAtMs + travelMs, () => {
          try {
            const answer = act();
            if (trouble !== "unanswered") world.at(world.nowMs + travelMs, () => resolve(answer));
          } catch (error) {
            if (trouble !== "unanswered") world.at(world.nowMs + travelMs, () => reject(error));
          }
        });
      });
    };
    const write = (spec: Lease["spec"]): Lease => {
      this.writes++;
      this.#lease = { metadata: { name: "l", namespace: "n", resourceVersion: String(++this.#version) }, spec };
      return this.#lease;
    };
    return {
      read: (timeoutMs) => call(timeoutMs, () => this.#lease),
      create: (spec, timeoutMs) =>
        call(timeoutMs, () => {
          if (this.#lease !== undefined) throw new KubernetesApiError("there is one", 409);
          return write(spec);
        }),
      replace: (lease, spec, timeoutMs) =>
        call(timeoutMs, () => {
          if (this.#lease === undefined) throw new KubernetesApiError("there is none", 404);
          if (this.#lease.metadata.resourceVersion !== lease.metadata.resourceVersion) {
            throw new KubernetesApiError("it is another", 409);
          }
          return write({ ...lease.spec, ...spec });
        }),
    };
  }
}

interface Contender {
  readonly election: LeaseElection;
  readonly events: ElectionEvent["kind"][];
  trouble: Trouble["kind"];
}

function contend(world: World, server: Server, name: string, options: { rate?: number; latencyMs?: number } = {}) {
  const { rate = 1, latencyMs = 5 } = options;
  const events: ElectionEvent["kind"][] = [];
  const contender: { trouble: Trouble["kind"] } = { trouble: "none" };
  const now = (): number => world.nowMs * rate;
  const clock: ElectionClock = {
    now,
    wallMs: () => 1_700_000_000_000 + world.nowMs,
    rest: (ms, signal) =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve();
        signal.addEventListener("abort", () => resolve());
        const wake = (): void => {
          // A process that is stopped runs nothing until it goes on.
          if (contender.trouble === "paused") world.at(world.nowMs + 500, wake);
          else resolve();
        };
        world.at(world.nowMs + ms / rate, wake);
      }),
  };
  const election = new LeaseElection({
    store: server.storeFor(() => ({ trouble: contender.trouble, latencyMs })),
    identity: name,
    report: ({ kind }) => events.push(kind),
    clock,
    random: () => 0.5,
  });
  election.start();
  return Object.assign(contender, { election, events }) satisfies Contender;
}

const leaders = (contenders: readonly Contender[]): number =>
  contenders.filter(({ election }) => election.isLeading).length;

describe("a contender", () => {
  it("takes a lease that is not there and renews it every two seconds", async () => {
    const world = new World();
    const server = new Server(world);
    const { election, events } = contend(world, server, "a");
    await world.runUntil(20_000);
    expect(election.isLeading).toBe(true);
    expect(events).toEqual(["leads"]);
    expect(server.writes).toBe(10);
    expect(server.lease?.spec).toEqual({
      holderIdentity: "a",
      leaseDurationSeconds: 15,
      leaseTransitions: 0,
      acquireTime: "2023-11-14T22:13:20.010000Z",
      renewTime: expect.stringMatching(/^2023-11-14T22:13:\d\d\.\d{6}Z$/),
    });
  });

  it("follows a holder and takes its lease when that has not changed for its duration, whatever the record's times say", async () => {
    const world = new World();
    const server = new Server(world);
    const first = contend(world, server, "a");
    await world.runUntil(1_000);
    const second = contend(world, server, "b");
    await world.runUntil(30_000);
    expect([first.election.isLeading, second.election.isLeading]).toEqual([true, false]);
    expect(second.events).toEqual(["follows"]);
    first.trouble = "unsent";
    const cutAtMs = world.nowMs;
    await world.runUntil(cutAtMs + 10_000);
    expect([first.election.isLeading, second.election.isLeading]).toEqual([false, false]);
    expect(first.events).toEqual(["leads", "failed", "lost"]);
    // The observer saw the last renewal up to one pause after it was made.
    await world.runUntil(cutAtMs + 15_000 + 3_300 + 100);
    expect(second.election.isLeading).toBe(true);
    expect(server.lease?.spec).toMatchObject({ holderIdentity: "b", leaseTransitions: 1 });
    first.trouble = "none";
    await world.runUntil(world.nowMs + 20_000);
    expect([first.election.isLeading, second.election.isLeading]).toEqual([false, true]);
    expect(first.election.holder).toBe("b");
    expect(first.events).toEqual(["leads", "failed", "lost", "follows"]);
  });

  it("gives its lease back when it closes, and another that is woken has it at once", async () => {
    const world = new World();
    const server = new Server(world);
    const first = contend(world, server, "a");
    await world.runUntil(1_000);
    const second = contend(world, server, "b");
    await world.runUntil(5_000);
    const closed = first.election.close();
    expect(first.election.isLeading).toBe(false);
    await world.runUntil(5_050);
    await closed;
    expect(first.events).toEqual(["leads", "released"]);
    expect(server.lease?.spec).toMatchObject({ holderIdentity: "", leaseDurationSeconds: 1, leaseTransitions: 0 });
    second.election.wake();
    await world.runUntil(5_100);
    expect(second.election.isLeading).toBe(true);
    expect(server.lease?.spec.leaseTransitions).toBe(1);
  });

  it("gives back what it does not know that it took, and leaves alone what another took meanwhile", async () => {
    const world = new World();
    const server = new Server(world);
    const first = contend(world, server, "a");
    await world.runUntil(1_000);
    first.trouble = "unanswered";
    await world.runUntil(4_000);
    first.trouble = "none";
    const closed = first.election.close();
    await world.runUntil(15_000);
    await closed;
    expect(server.lease?.spec.holderIdentity).toBe("");
    const second = contend(world, server, "b");
    await world.runUntil(16_000);
    const third = contend(world, server, "c");
    await world.runUntil(17_000);
    const alsoClosed = third.election.close();
    await world.runUntil(18_000);
    await alsoClosed;
    expect(second.election.isLeading).toBe(true);
    expect(third.events).toEqual(["follows"]);
  });

  it("that is outrun by another follows it without a fault", async () => {
    const world = new World();
    const server = new Server(world);
    const [first, second] = [contend(world, server, "a"), contend(world, server, "b", { latencyMs: 7 })];
    await world.runUntil(5_000);
    expect([first.events, second.events]).toEqual([["leads"], ["follows"]]);
  });

  it("does not count on a lease that was deleted until its holder must know it", async () => {
    const world = new World();
    const server = new Server(world);
    const first = contend(world, server, "a");
    await world.runUntil(1_000);
    const second = contend(world, server, "b");
    await world.runUntil(10_000);
    first.trouble = "unsent";
    server.remove();
    const deletedAtMs = world.nowMs;
    await world.runUntil(deletedAtMs + 9_000);
    expect(second.election.isLeading).toBe(false);
    await world.runUntil(deletedAtMs + 25_000);
    expect(leaders([first, second])).toBe(1);
    expect(second.election.isLeading).toBe(true);
  });

  it("leads no more from its deadline on although nothing runs that could tell it", async () => {
    const world = new World();
    const server = new Server(world);
    const first = contend(world, server, "a");
    await world.runUntil(1_000);
    first.trouble = "paused";
    await world.runUntil(12_000);
    expect(first.election.isLeading).toBe(false);
    first.trouble = "none";
    await world.runUntil(14_000);
    expect(first.election.isLeading).toBe(true);
    expect(first.events).toEqual(["leads", "lost", "leads"]);
  });

  it.each<ElectionTimes>([
    { leaseMs: 10_000, renewMs: 10_000, retryMs: 2_000 },
    { leaseMs: 15_000, renewMs: 2_000, retryMs: 2_000 },
  ])("refuses times by which two could lead or none could renew: %j", (times) => {
    const store = new Server(new World()).storeFor(() => ({ trouble: "none", latencyMs: 1 }));
    expect(() => new LeaseElection({ store, identity: "a", report: () => {}, times })).toThrow(RangeError);
  });
});

describe("contenders", () => {
  it("are never two that lead, whatever becomes of requests, answers, processes and clocks, and one leads in the end", async () => {
    const trouble = fc.record({
      atMs: fc.integer({ min: 0, max: 120_000 }),
      who: fc.nat(2),
      kind: fc.constantFrom<Trouble["kind"]>("none", "unsent", "unanswered", "slow", "paused"),
    });
    const shape = fc.record({
      rates: fc.tuple(...[0, 1, 2].map(() => fc.double({ min: 0.9, max: 1.1, noNaN: true }))),
      latencies: fc.tuple(...[0, 1, 2].map(() => fc.integer({ min: 1, max: 400 }))),
      troubles: fc.array(trouble, { maxLength: 30 }),
      leaves: fc.option(fc.record({ atMs: fc.integer({ min: 1, max: 120_000 }), who: fc.nat(2) })),
    });
    const numRuns = 40;
    let elections = 0;
    await fc.assert(
      fc.asyncProperty(shape, async ({ rates, latencies, troubles, leaves }) => {
        const world = new World();
        const server = new Server(world);
        const contenders = rates.map((rate, index) =>
          contend(world, server, `c${index}`, { rate, latencyMs: latencies[index] ?? 1 }),
        );
        const most = { leaders: 0 };
        world.afterEach = () => {
          most.leaders = Math.max(most.leaders, leaders(contenders));
        };
        for (const { atMs, who, kind } of troubles) {
          world.at(atMs, () => {
            const contender = contenders[who];
            if (contender !== undefined) contender.trouble = kind;
          });
        }
        if (leaves !== null) world.at(leaves.atMs, () => void contenders[leaves.who]?.election.close());
        world.at(120_000, () => {
          for (const contender of contenders) contender.trouble = "none";
        });
        await world.runUntil(160_000);
        expect(most.leaders).toBe(1);
        expect(leaders(contenders)).toBe(1);
        elections += contenders.flatMap(({ events }) => events).filter((kind) => kind === "leads").length;
        for (const { election } of contenders) void election.close();
        await world.runUntil(190_000);
      }),
      { numRuns },
    );
    // One election a run would be runs without a change: the troubles did make leaders change. How often is chance.
    expect(elections).toBeGreaterThan(numRuns);
  }, 60_000);
});

describe("a lease in an API server", () => {
  it("keeps what others wrote into it, and is written with microseconds", async () => {
    const sent: { readonly method: string; readonly path: string; readonly body: unknown }[] = [];
    const stored = {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { name: "l", namespace: "n", resourceVersion: "7", labels: { team: "x" } },
      spec: { holderIdentity: "old", leaseDurationSeconds: 15, strategy: "OldestEmulationVersion" },
    };
    const store = createLeaseStore(
      {
        async request({ method = "GET", path, body = "null" }) {
          sent.push({ method, path, body: JSON.parse(body) });
          return await Promise.resolve(JSON.stringify(stored));
        },
      },
      "n",
      "l",
    );
    const lease = await store.read(1000);
    if (lease === undefined) throw new Error("no lease");
    await store.replace(lease, { holderIdentity: "new", renewTime: microTime(1_700_000_000_123) }, 1000);
    expect(sent).toEqual([
      { method: "GET", path: "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", body: null },
      {
        method: "PUT",
        path: "/apis/coordination.k8s.io/v1/namespaces/n/leases/l",
        body: {
          ...stored,
          spec: { ...stored.spec, holderIdentity: "new", renewTime: "2023-11-14T22:13:20.123000Z" },
        },
      },
    ]);
  });

  it("that is not there is undefined; any other refusal is an error", async () => {
    const refusing = (status: number) =>
      createLeaseStore({ request: () => Promise.reject(new KubernetesApiError("no", status)) }, "n", "l");
    expect(await refusing(404).read(1)).toBeUndefined();
    await expect(refusing(403).read(1)).rejects.toMatchObject({ status: 403 });
  });
});
