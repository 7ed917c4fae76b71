/** Requests that wait for room in the running picker, are refused, or leave; workers that are busy; sessions that stay together. Nothing stays booked. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, jest } from "@jest/globals";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { eventually } from "../../stack.ts";
import { createFixture, knows } from "./fixture.ts";
import type { Pending, Picking } from "./picking.ts";

jest.setTimeout(90_000);

const fixture = createFixture();
let site: PeerSite;
let picking: Picking;

beforeEach(() => {
  site = fixture.site();
});
afterEach(async () => {
  await picking?.idle();
  await fixture.closeAll();
});

/** No two of different numbers share a block. */
function prompt(number: number, length = 100): number[] {
  return Array.from({ length }, (_, index) => (index % 16 === 0 ? number : index));
}

async function queued(): Promise<number> {
  const { router } = await picking.set();
  return router.queue.reduce((sum, { requests }) => sum + requests, 0);
}

const waits = (count: number): Promise<unknown> => eventually(`${count} wait`, async () => (await queued()) === count);

/** Whether it has been answered by now. */
async function isSettled({ outcome }: Pending): Promise<boolean> {
  return await Promise.race([
    outcome.then(() => true),
    new Promise<false>((resolve) => setImmediate(() => resolve(false))),
  ]);
}

describe("the queue", () => {
  const queue = { router: { routerQueueThreshold: 1 } };
  /** One request of 100 tokens fills a rank. */
  const small = { maxNumBatchedTokens: 64 };

  it("holds a request until an answer has begun, and goes on in order", async () => {
    await fixture.peer(site, small);
    picking = await fixture.picker(site, queue);
    const first = await picking.plan({ tokens: prompt(1) });
    const second = picking.begin({ tokens: prompt(2) });
    await waits(1);
    const third = picking.begin({ tokens: prompt(3) });
    await waits(2);
    expect(await isSettled(second)).toBe(false);
    await first.began();
    const secondSent = await second.outcome;
    expect(secondSent.kind).toBe("sent");
    expect(await isSettled(third)).toBe(false);
    // An end frees as a beginning does.
    if (secondSent.kind === "sent") secondSent.cancel();
    const thirdSent = await third.outcome;
    if (thirdSent.kind === "sent") await thirdSent.answered();
    first.cancel();
  });

  it("lets a worker that joins serve what waits for another", async () => {
    const full = await fixture.peer(site, small);
    picking = await fixture.picker(site, queue);
    const first = await picking.plan({ tokens: prompt(1) });
    const second = picking.begin({ tokens: prompt(2) });
    await waits(1);
    const joined = await fixture.peer(site, small);
    const sent = await second.outcome;
    expect(sent.kind).toBe("sent");
    if (sent.kind === "sent") {
      expect(sent.decode).toBe(joined.instanceId.toString());
      sent.cancel();
    }
    expect(joined.instanceId).not.toBe(full.instanceId);
    first.cancel();
  });

  it("lets a client that waits leave, and plans nothing for it", async () => {
    await fixture.peer(site, small);
    picking = await fixture.picker(site, queue);
    const first = await picking.plan({ tokens: prompt(1) });
    const waiting = picking.begin({ tokens: prompt(2) });
    const behind = picking.begin({ tokens: prompt(3) });
    await waits(2);
    waiting.cancel();
    await waits(1);
    await first.answered();
    const sent = await behind.outcome;
    if (sent.kind === "sent") await sent.answered();
    await expect(waiting.outcome).rejects.toThrow();
    const { router } = await picking.set();
    expect(router.counters).toMatchObject({ planned: 2, cancelled: 1 });
  });

  it("lets who is more urgent go first", async () => {
    await fixture.peer(site, small);
    picking = await fixture.picker(site, queue);
    const first = await picking.plan({ tokens: prompt(1) });
    const patient = picking.begin({ tokens: prompt(2) });
    await waits(1);
    const urgent = picking.begin({ tokens: prompt(3), headers: { "x-dynamo-request-strict-priority": "5" } });
    await waits(2);
    await first.answered();
    const urgentSent = await urgent.outcome;
    expect(await isSettled(patient)).toBe(false);
    if (urgentSent.kind === "sent") await urgentSent.answered();
    const patientSent = await patient.outcome;
    if (patientSent.kind === "sent") await patientSent.answered();
  });

  it("refuses at once who does not want to wait", async () => {
    await fixture.peer(site, small);
    picking = await fixture.picker(site, queue);
    const first = await picking.plan({ tokens: prompt(1) });
    const asked = await picking.ask({
      body: { model: "tiny", prompt: prompt(2), nvext: { do_not_queue: true } },
    });
    expect(asked).toMatchObject({ kind: "refused", refusal: { status: 429, set: { "retry-after": "1" } } });
    expect(await queued()).toBe(0);
    await first.answered();
  });

  it("refuses what waits once the last worker has gone", async () => {
    const peer = await fixture.peer(site, small);
    picking = await fixture.picker(site, queue);
    const first = await picking.plan({ tokens: prompt(1) });
    const waiting = picking.begin({ tokens: prompt(2) });
    await waits(1);
    await peer.close();
    expect(await waiting.outcome).toMatchObject({ kind: "refused", refusal: { status: 503 } });
    first.cancel();
  });

  it.each([
    [429, {}],
    [529, { overloadStatus: 529 }],
  ])("answers %i when it is full", async (status, router) => {
    const scratch = mkdtempSync(join(tmpdir(), "signalbox-policy-"));
    fixture.keep({ close: async () => rmSync(scratch, { recursive: true, force: true }) });
    const file = join(scratch, "policy.yaml");
    writeFileSync(
      file,
      `default_policy_family: only
uncached_isl_buckets: [{ min_tokens: 0, bucket: all }]
policy_classes:
  - { name: only, policy_family: only, cache_bucket: all, quantum: 1000, prefill_busy_threshold: 1, request_queue_limit_per_worker: 2 }
`,
    );
    await fixture.peer(site, small);
    picking = await fixture.picker(site, { router: { ...router, routerPolicyConfig: file } });
    const first = await picking.plan({ tokens: prompt(1) });
    const waiting = [2, 3].map((number) => picking.begin({ tokens: prompt(number) }));
    await waits(2);
    const asked = await picking.ask({ tokens: prompt(4) });
    expect(asked).toMatchObject({ kind: "refused", refusal: { status, set: { "retry-after": "1" } } });
    await first.answered();
    for (const { outcome } of waiting) {
      const sent = await outcome;
      expect(sent.kind).toBe("sent");
      if (sent.kind === "sent") await sent.answered();
    }
  });

  it("is worked off by a picker that is told to end, before it ends", async () => {
    await fixture.peer(site, small);
    const ending = await fixture.picker(site, { ...queue, args: ["--drain-grace=60s"] });
    picking = ending;
    const first = await picking.plan({ tokens: prompt(1) });
    const waiting = [2, 3].map((number) => ending.begin({ tokens: prompt(number) }));
    await waits(2);
    ending.child.signal("SIGTERM");
    await eventually("it drains", async () => !(await ending.isReady()));
    await first.answered();
    for (const { outcome } of waiting) {
      const sent = await outcome;
      expect(sent.kind).toBe("sent");
      if (sent.kind === "sent") await sent.answered();
    }
    expect(await ending.child.exited).toBe(0);
  });

  it("is refused by a picker that has waited for its grace, while what is being answered is cut", async () => {
    await fixture.peer(site, small);
    const ending = await fixture.picker(site, { ...queue, args: ["--drain-grace=100ms"] });
    picking = ending;
    await picking.plan({ tokens: prompt(1) });
    const waiting = [2, 3, 4].map((number) => ending.begin({ tokens: prompt(number) }));
    await waits(3);
    ending.child.signal("SIGTERM");
    for (const { outcome } of waiting) {
      expect(await outcome).toMatchObject({ kind: "refused", refusal: { status: 503, set: { "retry-after": "1" } } });
    }
    expect(await ending.child.exited).toBe(0);
  });
});

describe("busy workers", () => {
  it("are passed over by their own books, and refused when all are", async () => {
    const peers = await fixture.peers(site, 2);
    picking = await fixture.picker(site, { router: { activePrefillTokensThreshold: 50 } });
    await knows(picking, peers);
    const first = await picking.plan({ tokens: prompt(1) });
    const second = await picking.plan({ tokens: prompt(1), headers: { "x-request-id": "second" } });
    expect(first.decode).not.toBe(second.decode);
    const [decision] = await picking.debug<readonly { readonly plan: unknown }[]>("decisions/second");
    expect(decision?.plan).toMatchObject({
      decode: { workerId: second.decode },
      considered: {
        stages: [
          {
            stage: "decode",
            ranks: [{ workerId: second.decode, cost: expect.any(Number), prefillBlocks: expect.any(Number) }],
            others: 0,
            excluded: { overloaded: 1 },
          },
        ],
      },
    });
    expect(await picking.ask({ tokens: prompt(2) })).toMatchObject({ kind: "refused", refusal: { status: 429 } });
    await first.began();
    const third = await picking.plan({ tokens: prompt(2) });
    expect(third.decode).toBe(first.decode);
    for (const one of [second, third]) await one.answered();
    first.cancel();
  });

  it("are passed over by what they report, until they report otherwise", async () => {
    const peers = await fixture.peers(site, 2, { totalKvBlocks: 100 });
    picking = await fixture.picker(site, { router: { activeDecodeBlocksThreshold: 0.5 } });
    await knows(picking, peers);
    const [full, free] = peers;
    /** A report that nobody heard is said again, as workers do all the time. */
    await eventually("only one is chosen", async () => {
      full?.reportLoad({ kvUsedBlocks: 90, activeDecodeBlocks: 90 });
      const sent = await Promise.all([1, 2, 3, 4].map((number) => picking.plan({ tokens: prompt(number) })));
      for (const one of sent) one.cancel();
      return sent.every(({ decode }) => decode === String(free?.instanceId));
    });
    await eventually("nobody is left", async () => {
      free?.reportLoad({ kvUsedBlocks: 90, activeDecodeBlocks: 90 });
      const asked = await picking.ask({ tokens: prompt(5) });
      if (asked.kind === "sent") asked.cancel();
      return asked.kind === "refused" && asked.refusal.status === 429;
    });
    await eventually("both are back", async () => {
      for (const peer of peers) peer.reportLoad({ kvUsedBlocks: 1, activeDecodeBlocks: 1 });
      const asked = await Promise.all([6, 7, 8, 9].map((number) => picking.ask({ tokens: prompt(number) })));
      const chosen = new Set(asked.map((one) => (one.kind === "sent" ? one.decode : undefined)));
      for (const one of asked) if (one.kind === "sent") one.cancel();
      return chosen.size === 2 && !chosen.has(undefined);
    });
  });
});

describe("sessions", () => {
  const router = { sessionAffinityTtlSecs: 60 };

  it("stay with their worker, whatever they ask, until they say that they are over", async () => {
    const peers = await fixture.peers(site, 4);
    picking = await fixture.picker(site, { router });
    await knows(picking, peers);
    const session = { "x-dynamo-session-id": "s1" };
    const first = await picking.plan({ tokens: prompt(1), headers: session });
    const others = await Promise.all(
      [2, 3, 4, 5].map((number) => picking.plan({ tokens: prompt(number), headers: session })),
    );
    expect(new Set(others.map(({ decode }) => decode))).toEqual(new Set([first.decode]));
    const elsewhere = await picking.plan({ tokens: prompt(6) });
    expect(elsewhere.decode).not.toBe(first.decode);
    expect((await picking.set()).router.sessions.decode).toBe(1);
    for (const one of [first, ...others, elsewhere]) await one.answered();
    const last = await picking.plan({ headers: { ...session, "x-dynamo-session-final": "true" } });
    expect(last.decode).toBe(first.decode);
    await last.answered();
    await eventually("it is forgotten", async () => (await picking.set()).router.sessions.decode === 0);
  });

  it("move on when their worker has left", async () => {
    const peers = await fixture.peers(site, 2);
    picking = await fixture.picker(site, { router });
    await knows(picking, peers);
    const headers = { "x-dynamo-session-id": "s1" };
    const first = await picking.plan({ headers });
    await first.answered();
    const own = peers.find(({ instanceId }) => String(instanceId) === first.decode);
    const other = peers.find((peer) => peer !== own);
    await own?.close();
    await knows(picking, other === undefined ? [] : [other]);
    const next = await picking.plan({ headers });
    expect(next.decode).toBe(String(other?.instanceId));
    await next.answered();
  });
});

describe("bookings", () => {
  it("end with the answer, with an error, with a client that leaves before or after its first byte", async () => {
    const peers = await fixture.peers(site, 2);
    picking = await fixture.picker(site);
    await knows(picking, peers);
    const sent = await Promise.all(Array.from({ length: 40 }, (_, index) => picking.plan({ tokens: prompt(index) })));
    const { router } = await picking.set();
    expect(router.bookings).toBe(40);
    expect(router.loads.decode.map(({ activeRequests }) => activeRequests)).toEqual([20, 20]);
    for (const [index, one] of sent.entries()) {
      if (index % 4 === 0) await one.answered();
      else if (index % 4 === 1) await one.answered(500);
      else if (index % 4 === 2) await one.began();
      one.cancel();
    }
    await picking.idle();
  });

  it("count prompt tokens until the first byte of the answer, and blocks until its end", async () => {
    await fixture.peer(site);
    picking = await fixture.picker(site);
    const load = async () => (await picking.set()).router.loads.decode[0];
    const sent = await picking.plan({ tokens: prompt(1, 96) });
    expect(await load()).toMatchObject({ activeRequests: 1, activePrefillTokens: 96, activeDecodeBlocks: 6 });
    await sent.began();
    expect(await load()).toMatchObject({ activeRequests: 1, activePrefillTokens: 0, activeDecodeBlocks: 6 });
    sent.cancel();
    await eventually("it is free", async () => (await load())?.activeRequests === 0);
    expect(await load()).toMatchObject({ activePrefillTokens: 0, activeDecodeBlocks: 0 });
  });
});
