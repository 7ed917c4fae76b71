/**
 * What leaves the running picker with a request to Dynamo: headers, destination, metadata and body exactly, over both transports, in both layouts,
 * and what it takes away from what the client sent.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from "@jest/globals";
import { type DynamoPeer, type PeerOptions, startPeer } from "../../dynamo-peer/peer.ts";
import { createSite, type PeerSite } from "../../dynamo-peer/site.ts";
import { eventually } from "../../stack.ts";
import { frontendAddress, type Picking, startPicking } from "./picking.ts";

jest.setTimeout(60_000);

/** Above 2^53 and 2^63: neither a double nor a signed integer holds them. */
const decodeId = 18_446_744_073_709_551_557n;
const prefillId = 9_007_199_254_740_993n;
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const tokens = Array.from({ length: 40 }, (_, index) => 100 + index);

const layouts = {
  aggregated: [{ role: "aggregated", instanceId: decodeId }],
  disaggregated: [
    { role: "decode", instanceId: decodeId, firstRank: 2 },
    { role: "prefill", instanceId: prefillId, firstRank: 5 },
  ],
} as const satisfies Readonly<Record<string, readonly PeerOptions[]>>;

type Layout = keyof typeof layouts;

const workerHeaders: Readonly<Record<Layout, Readonly<Record<string, string>>>> = {
  aggregated: {
    "x-dynamo-worker-instance-id": "18446744073709551557",
    "x-dynamo-dp-rank": "0",
    "x-dynamo-routing-mode": "aggregated",
  },
  disaggregated: {
    "x-dynamo-worker-instance-id": "18446744073709551557",
    "x-dynamo-dp-rank": "2",
    "x-dynamo-routing-mode": "disaggregated",
    "x-dynamo-prefill-instance-id": "9007199254740993",
    "x-dynamo-prefill-dp-rank": "5",
  },
};

const legacyHeaders: Readonly<Record<Layout, Readonly<Record<string, string>>>> = {
  aggregated: {
    "x-worker-instance-id": "18446744073709551557",
    "x-dp-rank": "0",
    "x-data-parallel-rank": "0",
  },
  disaggregated: {
    "x-worker-instance-id": "18446744073709551557",
    "x-dp-rank": "2",
    "x-data-parallel-rank": "2",
    "x-prefill-instance-id": "9007199254740993",
    "x-prefill-dp-rank": "5",
  },
};

/** What a client may not say, in the order of the alphabet. */
const forbidden = [
  "x-data-parallel-host-port",
  "x-data-parallel-rank",
  "x-dp-rank",
  "x-dynamo-dp-rank",
  "x-dynamo-nobody-knows-this-yet",
  "x-dynamo-prefill-dp-rank",
  "x-dynamo-prefill-instance-id",
  "x-dynamo-request-id",
  "x-dynamo-routing-mode",
  "x-dynamo-worker-instance-id",
  "x-prefill-dp-rank",
  "x-prefill-instance-id",
  "x-prefiller-host-port",
  "x-worker-instance-id",
];
const allowed = ["x-dynamo-meta-policy-class", "x-dynamo-request-priority", "x-dynamo-session-id"];

async function peersOf(site: PeerSite, options: readonly PeerOptions[]): Promise<DynamoPeer[]> {
  return await Promise.all(options.map((one) => startPeer(site, one)));
}

interface Variant {
  readonly layout: Layout;
  readonly transport: "http2" | "grpc-js";
  readonly isLegacy: boolean;
}

const variants: readonly Variant[] = [
  { layout: "aggregated", transport: "http2", isLegacy: false },
  { layout: "disaggregated", transport: "grpc-js", isLegacy: false },
  { layout: "aggregated", transport: "grpc-js", isLegacy: true },
  { layout: "disaggregated", transport: "http2", isLegacy: true },
];

describe.each(variants)("$layout over $transport, legacy headers: $isLegacy", ({ layout, transport, isLegacy }) => {
  let site: PeerSite;
  let peers: DynamoPeer[];
  let picking: Picking;
  beforeAll(async () => {
    site = createSite();
    peers = await peersOf(site, layouts[layout]);
    picking = await startPicking(site, { transport, args: isLegacy ? ["--dynamo-legacy-headers"] : [] });
    await eventually("the set is complete", async () => (await picking.set()).router.workers.length === peers.length);
  });
  afterAll(async () => {
    await picking?.close();
    for (const peer of peers ?? []) await peer.close();
    await site?.close();
  });
  afterEach(async () => picking.idle());

  it("names both workers, their ranks and the destination, and nothing else", async () => {
    const sent = await picking.plan({ tokens, headers: { "x-request-id": "mine" } });
    const { reply } = sent;
    const { "x-dynamo-request-id": requestId, ...set } = reply.set;
    expect(requestId).toMatch(uuid);
    const length = set["Content-Length"] === undefined ? {} : { "Content-Length": set["Content-Length"] };
    expect(set).toEqual({
      "x-gateway-destination-endpoint": frontendAddress,
      ...workerHeaders[layout],
      ...(isLegacy ? legacyHeaders[layout] : {}),
      ...length,
    });
    expect(reply.metadata).toEqual({ "envoy.lb": { "x-gateway-destination-endpoint": frontendAddress } });
    expect(reply.clearRouteCache).toBe(true);
    await sent.answered();
  });

  it("mints an id for each request", async () => {
    const sent = await Promise.all([picking.plan({ tokens }), picking.plan({ tokens })]);
    const ids = sent.map(({ headers }) => headers["x-dynamo-request-id"]);
    expect(ids[0]).not.toBe(ids[1]);
    for (const one of sent) await one.answered();
  });

  it("takes away what a client says of workers, and leaves what it says of itself", async () => {
    const said = Object.fromEntries([...forbidden, ...allowed].map((name) => [name, "7"]));
    const sent = await picking.plan({ tokens, headers: said });
    const { reply } = sent;
    const left = forbidden.filter((name) => !reply.remove.includes(name) && reply.set[name] === undefined);
    expect(left).toEqual([]);
    for (const value of Object.values(workerHeaders[layout])) expect(Object.values(reply.set)).toContain(value);
    for (const name of forbidden) expect(reply.set[name]).not.toBe("7");
    for (const name of allowed) expect([...reply.remove, ...Object.keys(reply.set)]).not.toContain(name);
    await sent.answered();
  });

  it("puts the chat's token ids into the body and leaves every other byte", async () => {
    const body = '{"model":"tiny", "messages":[{"role":"user","content":"hello"}],"seed":18446744073709551615}';
    const sent = await picking.plan({ path: "/v1/chat/completions", rawBody: body });
    const ids = /"token_data":(\[[\d,]+\])/.exec(sent.body)?.[1];
    expect((JSON.parse(ids ?? "[]") as number[]).length).toBeGreaterThan(5);
    expect(sent.body.replace(/,?\s*"nvext":\s*\{\s*"token_data":\s*\[[\d,]+\]\s*\},?/, "")).toBe(body);
    await sent.answered();
  });

  it("leaves a body of token ids as it came", async () => {
    const body = `{"model":"tiny","prompt":[1,2,3],"max_tokens":3}`;
    const sent = await picking.plan({ rawBody: body });
    expect(sent.body).toBe(body);
    await sent.answered();
  });

  it("takes out token ids that the client claims for a chat", async () => {
    const body = {
      model: "tiny",
      messages: [{ role: "user", content: "hello" }],
      nvext: { token_data: [66, 66, 66], annotations: ["kept"] },
    };
    const sent = await picking.plan({ path: "/v1/chat/completions", body });
    expect(sent.body).not.toContain("66,66,66");
    expect(sent.body).toContain('"annotations":["kept"]');
    await sent.answered();
  });
});

it("leaves the body alone where token ids are not to be sent", async () => {
  const site = createSite();
  const peer = await startPeer(site);
  const picking = await startPicking(site, { router: { injectTokens: false } });
  try {
    const body = '{"model":"tiny","messages":[{"role":"user","content":"hello"}]}';
    const sent = await picking.plan({ path: "/v1/chat/completions", rawBody: body });
    expect(sent.body).toBe(body);
    await sent.answered();
    await picking.idle();
  } finally {
    await picking.close();
    await peer.close();
    await site.close();
  }
});

it("spreads requests over the ranks of a worker, each named with its own number", async () => {
  const site = createSite();
  const peer = await startPeer(site, { firstRank: 4, ranks: 3, instanceId: decodeId });
  const picking = await startPicking(site);
  try {
    const sent = await Promise.all([0, 1, 2].map((first) => picking.plan({ tokens: [first, ...tokens] })));
    expect(new Set(sent.map(({ headers }) => headers["x-dynamo-dp-rank"]))).toEqual(new Set(["4", "5", "6"]));
    for (const one of sent) {
      expect(one.decode).toBe(String(decodeId));
      await one.answered();
    }
    await picking.idle();
  } finally {
    await picking.close();
    await peer.close();
    await site.close();
  }
});
