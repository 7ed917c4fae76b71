/** When the running picker serves and in which mode, as prefill and decode workers come, go and die; and what it says of cards it cannot use. */
import { afterEach, beforeEach, describe, expect, it, jest } from "@jest/globals";
import { checkedFile } from "../../dynamo-peer/card.ts";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { eventually } from "../../stack.ts";
import { createFixture, knows } from "./fixture.ts";
import type { Asked, Picking } from "./picking.ts";

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

const isSent = ({ kind }: Asked): boolean => kind === "sent";
const isRefused = ({ kind }: Asked): boolean => kind === "refused";
const isDisaggregated = (asked: Asked): boolean => asked.kind === "sent" && asked.prefill !== undefined;
/** Serves where it is told to, beside prefill workers or without them. */
const easy = { changes: { needs: [] } };

function expectUnavailable(asked: Asked, message: string): void {
  expect(asked).toMatchObject({ kind: "refused", refusal: { status: 503, set: { "retry-after": "1" } } });
  if (asked.kind === "refused") expect(asked.refusal.body).toContain(message);
}

describe("disaggregation", () => {
  it("waits for prefill workers that decode workers need, both at first and when the last has gone", async () => {
    await fixture.peer(site, { role: "decode" });
    picking = await fixture.picker(site, { awaitReady: false });
    await eventually("it is waited for", async () => (await picking.discovery()).sets[0]?.topology);
    expectUnavailable(await picking.ask(), "prefill");
    const prefill = await fixture.peer(site, { role: "prefill" });
    await picking.planUntil("it serves", {}, isDisaggregated, 20_000);
    await prefill.close();
    await picking.planUntil("it refuses", {}, isRefused);
    expectUnavailable(await picking.ask(), "prefill");
    expect((await picking.discovery()).sets[0]).toMatchObject({
      state: "waiting-for-prefill",
      reason: expect.stringContaining("prefill"),
    });
    await fixture.peer(site, { role: "prefill" });
    await picking.planUntil("it serves again", {}, isDisaggregated);
  });

  it("serves without prefill workers where nobody needs them, and with them once they are there", async () => {
    await fixture.peer(site, { role: "aggregated" });
    picking = await fixture.picker(site);
    const alone = await picking.plan();
    expect([alone.prefill, alone.headers["x-dynamo-routing-mode"]]).toEqual([undefined, "aggregated"]);
    await alone.answered();
    const prefill = await fixture.peer(site, { role: "prefill", ...easy });
    await picking.planUntil("it is disaggregated", {}, isDisaggregated);
    await prefill.close();
    await picking.planUntil("it is aggregated", {}, (asked) => isSent(asked) && !isDisaggregated(asked));
  });

  it.each([
    ["DYN_ENFORCE_DISAGG", { environment: { DYN_ENFORCE_DISAGG: "true" } }],
    ["enforceDisagg", { discovery: { enforceDisagg: true } }],
  ])("with %s serves nobody without prefill workers", async (_, options) => {
    await fixture.peer(site, { role: "aggregated" });
    picking = await fixture.picker(site, { ...options, awaitReady: false });
    await eventually("the worker is known", async () => (await picking.workers()).length === 1);
    expectUnavailable(await picking.ask(), "enforced");
    const prefill = await fixture.peer(site, { role: "prefill", ...easy });
    await picking.planUntil("it serves", {}, isDisaggregated, 20_000);
    await prefill.close();
    const refused = await picking.planUntil("it refuses", {}, isRefused);
    expectUnavailable(refused, "enforced");
  });

  it("begins with as many workers of each role as are wanted at first, and goes on with fewer", async () => {
    const decodes = [await fixture.peer(site, { role: "decode" })];
    await fixture.peers(site, 2, { role: "prefill" });
    picking = await fixture.picker(site, { environment: { DYN_ROUTER_MIN_INITIAL_WORKERS: "2" }, awaitReady: false });
    const isWaiting = (asked: Asked): boolean =>
      asked.kind === "refused" && asked.refusal.body.includes("1 of 2 initial workers");
    expectUnavailable(await picking.planUntil("it waits", {}, isWaiting, 20_000), "initial workers");
    expect(await picking.isReady()).toBe(false);
    decodes.push(await fixture.peer(site, { role: "decode" }));
    await eventually("it is ready", picking.isReady, 20_000);
    await picking.planUntil("it serves", {}, isDisaggregated);
    await decodes.pop()?.close();
    await eventually("it has left", async () => (await picking.workers()).length === 3);
    await picking.planUntil("it serves still", {}, isDisaggregated);
  });

  it("lets no request decode alone while a prefill worker is registered, though it be dead", async () => {
    await fixture.peer(site, { role: "aggregated" });
    const prefill = await fixture.process(site, { role: "prefill", ...easy });
    picking = await fixture.picker(site);
    await eventually("both", async () => (await picking.set()).router.workers.length === 2);
    const sent = await picking.plan();
    expect(sent.prefill).toBe(String(prefill.instanceId));
    await prefill.kill();
    await sent.answered(503);
    await eventually("it is suspected", async () => (await picking.set()).suspects.length === 1);
    const answers = new Map<string, number>();
    for (let isRegistered = true; isRegistered; ) {
      const asked = await picking.ask();
      isRegistered = (await picking.workers()).length === 2;
      if (!isRegistered) {
        if (asked.kind === "sent") asked.cancel();
        break;
      }
      const how = asked.kind === "refused" ? `refused ${asked.refusal.status}` : `sent ${asked.prefill ?? "alone"}`;
      answers.set(how, (answers.get(how) ?? 0) + 1);
      if (asked.kind === "sent") asked.cancel();
    }
    expect([...answers.keys()]).toEqual(["refused 503"]);
    await picking.planUntil("its record has expired", {}, isSent, 20_000);
  });

  it("stays whole while prefill workers flap: every request has both legs or is refused", async () => {
    const decodes = await fixture.peers(site, 2, { role: "decode" });
    const ids = new Set(decodes.map(({ instanceId }) => String(instanceId)));
    picking = await fixture.picker(site, { awaitReady: false });
    let isFlapping = true;
    const flap = (async () => {
      for (let round = 0; round < 5; round++) {
        const prefill = await fixture.peer(site, { role: "prefill" });
        await picking.planUntil("it serves", {}, isDisaggregated, 20_000);
        await prefill.close();
        await picking.planUntil("it refuses", {}, isRefused);
      }
      isFlapping = false;
    })();
    const seen = new Set<string>();
    while (isFlapping) {
      const asked = await picking.ask();
      seen.add(asked.kind);
      if (asked.kind === "refused") expect(asked.refusal.status).toBe(503);
      else {
        expect(asked.prefill).toBeDefined();
        expect(ids).toContain(asked.decode);
        await asked.answered();
      }
    }
    await flap;
    expect([...seen].sort()).toEqual(["refused", "sent"]);
  });
});

describe("a bad card", () => {
  const wrongTokenizer = {
    tokenizer: { hf_tokenizer_json: { ...checkedFile("tokenizer.json"), checksum: `blake3:${"0".repeat(64)}` } },
  };

  it("with a file of another digest keeps its set from serving, says why, and is made good by a right one", async () => {
    const bad = await fixture.peer(site, { changes: wrongTokenizer });
    picking = await fixture.picker(site, { awaitReady: false });
    const says = /tokenizer\.json has another content than the card says$/;
    await eventually("the reason", async () => says.test((await picking.discovery()).sets[0]?.reason ?? ""));
    const reason = expect.stringMatching(says);
    expect((await picking.discovery()).sets).toMatchObject([{ reason, files: { kind: "failed", reason } }]);
    expectUnavailable(await picking.ask(), "tokenizer");
    await bad.close();
    await fixture.peer(site);
    await picking.planUntil("it serves", {}, isSent, 20_000);
  });

  it("that no card can be made of is told by its key, and others serve", async () => {
    const good = await fixture.peer(site);
    const bad = await fixture.peer(site, { changes: { kv_cache_block_size: 0 } });
    picking = await fixture.picker(site);
    await knows(picking, [good]);
    const { faults } = await picking.discovery();
    expect(JSON.stringify(faults)).toContain(bad.instanceId.toString(16));
    expect(JSON.stringify(faults)).toContain("kv_cache_block_size");
    const sent = await picking.plan();
    expect(sent.decode).toBe(String(good.instanceId));
    await sent.answered();
  });

  it("that differs from the first one's leaves its worker out, with the reason", async () => {
    const good = await fixture.peer(site);
    picking = await fixture.picker(site);
    await knows(picking, [good]);
    const other = await fixture.peer(site, { contextLength: 100 });
    const rejected = await eventually("it is rejected", async () => {
      const [set] = (await picking.discovery()).sets;
      return set !== undefined && set.rejected.length > 0 ? set.rejected : undefined;
    });
    expect(JSON.stringify(rejected)).toContain(String(other.instanceId));
    const sent = await picking.plan();
    expect(sent.decode).toBe(String(good.instanceId));
    await sent.answered();
  });

  it("cannot make a prompt longer than its context: 400, and nothing is booked", async () => {
    await fixture.peer(site, { contextLength: 32 });
    picking = await fixture.picker(site);
    const asked = await picking.ask({ tokens: Array.from({ length: 33 }, (_, index) => index) });
    expect(asked).toMatchObject({ kind: "refused", refusal: { status: 400 } });
    const { router } = await picking.set();
    expect([router.bookings, router.counters["planned"]]).toEqual([0, 0]);
  });
});
