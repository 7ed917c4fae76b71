/** What a naive picker gets wrong in scheduling, asked of the running process, named by its number in the inventory of the reference's subtle behaviours. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import {
  type Conversation,
  type Reply,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
} from "./ext-proc-client.ts";
import { type Picker, startPicker } from "./picker.ts";

interface Row {
  readonly endpoint: string;
  readonly scores: Readonly<Record<string, { readonly score: number }>>;
}
interface Decision {
  readonly priority: number;
  readonly targetModel: string;
  readonly profiles: readonly { readonly endpoints: readonly Row[] }[];
}
interface Shown {
  readonly address: string;
  readonly load: { readonly requests: number; readonly tokens: number };
}

const idle = [
  { queue: 0, kv: 0 },
  { queue: 0, kv: 0 },
  { queue: 0, kv: 0 },
];

describe.each(["http2", "grpc-js"] as const)("the running picker over %s", (transport) => {
  let picker: Picker;
  let requests = 0;
  beforeAll(async () => {
    picker = await startPicker({ transport, tls: false, engines: 3 });
  }, 30_000);
  beforeEach(() => picker.observe(idle));
  afterAll(() => picker.close());

  const address = (i: number): string => picker.engines[i]?.address ?? "";

  interface Sent {
    readonly id: string;
    readonly conversation: Conversation;
    readonly replies: readonly Reply[];
    readonly destination: string;
  }

  /** Sends one request, leaves its stream open. */
  async function send(body: string, headers: Record<string, string> = {}, subset?: readonly string[]): Promise<Sent> {
    const id = `request-${requests++}`;
    const conversation = picker.extProc.open();
    conversation.send(requestHeaders({ "x-request-id": id, ...headers }, { subset }), requestBody(body, { subset }));
    const replies = await conversation.replied(2);
    const [first] = replies;
    const destination = first?.kind === "requestHeaders" ? (first.set["x-gateway-destination-endpoint"] ?? "") : "";
    return { id, conversation, replies, destination };
  }

  async function answer({ conversation }: Sent, status: string): Promise<void> {
    conversation.send(responseHeaders({ ":status": status }), responseBody("{}", { endOfStream: true }));
    await conversation.replied(4);
    conversation.cancel();
  }

  const decisionOf = async ({ id }: Sent): Promise<Decision> => {
    const [decision] = await picker.debug<Decision[]>(`/debug/decisions/${id}`);
    if (decision === undefined) throw new Error(`no decision of ${id}`);
    return decision;
  };
  const prefixScores = async (sent: Sent): Promise<Record<string, number>> => {
    const rows = (await decisionOf(sent)).profiles[0]?.endpoints ?? [];
    return Object.fromEntries(
      rows.map(({ endpoint, scores }) => [endpoint, scores["prefix-cache-scorer"]?.score ?? 0]),
    );
  };
  const loadOf = async (destination: string): Promise<Shown["load"] | undefined> =>
    (await picker.debug<Shown[]>("/debug/endpoints")).find((shown) => shown.address === destination)?.load;
  /** A prompt of several blocks of the index, the same for the same name. */
  const blocks = (...names: readonly string[]): string =>
    names.map((name) => `${name} `.repeat(256).slice(0, 256)).join("");
  const completion = (prompt: string, model = "m"): string => JSON.stringify({ model, prompt });

  it("Scheduling 23: a subset entry matches address and port, or the bare address; a list or a comma string", async () => {
    for (const i of [2, 0, 1]) {
      const sent = await send(completion("one of three"), {}, [address(i)]);
      expect(sent.destination).toBe(address(i));
      sent.conversation.cancel();
    }
    const both = await send(completion("comma"), {}, [`${address(0)},${address(1)}`]);
    expect([address(0), address(1)]).toContain(both.destination);
    both.conversation.cancel();
    expect((await send(completion("no port"), {}, ["127.0.0.1:1"])).replies[0]).toMatchObject({ status: 503 });
  });

  it("Scheduling 29: prefix credit counts blocks from the beginning only", async () => {
    const first = await send(completion(blocks("a", "b", "c", "d")), {}, [address(1)]);
    await answer(first, "200");
    const longer = await send(completion(blocks("a", "b", "c", "e")));
    expect(longer.destination).toBe(address(1));
    expect((await prefixScores(longer))[address(1)]).toBeCloseTo(0.75, 1);
    await answer(longer, "200");
    const otherHead = await send(completion(blocks("x", "b", "c", "d")));
    expect(Object.values(await prefixScores(otherHead))).toEqual([0, 0, 0]);
    await answer(otherHead, "200");
  });

  it("Scheduling 30: a request that failed leaves no blocks behind", async () => {
    const prompt = blocks("fails", "and", "leaves", "nothing");
    await answer(await send(completion(prompt), {}, [address(2)]), "500");
    const next = await send(completion(prompt));
    expect(Object.values(await prefixScores(next))).toEqual([0, 0, 0]);
    await answer(next, "200");
    const held = await send(completion(prompt));
    expect((await prefixScores(held))[next.destination]).toBeGreaterThan(0.9);
    await answer(held, "200");
  });

  it("Scheduling 31: load is counted at once and given back at every kind of end", async () => {
    const ends: readonly ((sent: Sent) => Promise<void> | void)[] = [
      (sent) => answer(sent, "200"),
      (sent) => answer(sent, "503"),
      ({ conversation }) => conversation.halfClose(),
      ({ conversation }) => conversation.cancel(),
    ];
    for (const [i, end] of ends.entries()) {
      const sent = await send(completion(blocks("load", String(i))));
      const load = await loadOf(sent.destination);
      expect(load?.requests).toBe(1);
      expect(load?.tokens).toBeGreaterThan(0);
      await end(sent);
      await eventually("no load", async () => {
        const left = await loadOf(sent.destination);
        return left?.requests === 0 && left.tokens === 0;
      });
    }
  });

  it("Scheduling 32: with some weights an unweighted rewrite target is never picked, and numbers stay exact", async () => {
    for (let i = 0; i < 20; i++) {
      const sent = await send('{"seed":12345678901234567890,"model":"mixed-weights","prompt":"p","a":1.0}', {
        "x-llm-d-model-name-rewrite": "header",
      });
      const [, body] = sent.replies;
      expect(body).toMatchObject({
        body: '{"seed":12345678901234567890,"model":"weighted","prompt":"p","a":1.0}',
      });
      sent.conversation.cancel();
    }
  });

  it.each([
    ["my-model", 2],
    ["inference-objective-with-priority-4", 4],
    ["negative", -1],
    ["4", 0],
    ["no-such-object", 0],
  ])("Scheduling 33: the objective header %j names an object of priority %i", async (objective, priority) => {
    const sent = await send(completion("objective"), { "x-llm-d-inference-objective": objective });
    expect((await decisionOf(sent)).priority).toBe(priority);
    sent.conversation.cancel();
  });

  it("Scheduling 33: a negative priority is shed while the pool is saturated, none other is", async () => {
    await picker.observe(idle.map(() => ({ queue: 1_000, kv: 0.99 })));
    const shed = await send(completion("shed"), { "x-llm-d-inference-objective": "negative" });
    expect(shed.replies[0]).toMatchObject({ kind: "immediate", status: 429 });
    const kept = await send(completion("kept"), { "x-llm-d-inference-objective": "no-such-object" });
    expect(kept.destination).not.toBe("");
    kept.conversation.cancel();
  });
});
