/**
 * Envoy, the picker, Dynamo's own frontend in direct mode and real workers: every kind of request is served by the workers that the picker
 * chose, which the workers' own counts and the frontend's answer both say.
 */
import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import { type Answer, send } from "./client.ts";
import { sendLoad } from "./load.ts";
import { type Decision, type Gateway, startGateway } from "./picker.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

const chat = "/v1/chat/completions";
const completions = "/v1/completions";
const words = Array.from({ length: 80 }, (_, index) => `word${index}`).join(" ");
const told = { nvext: { extra_fields: ["worker_id", "prompt_token_ids"] } };
const messages = [
  { role: "system", content: "You are terse." },
  { role: "user", content: words },
];

interface Kind {
  readonly name: string;
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
  /** Prompts, each served by itself. */
  readonly times?: number;
  /** Its ids may not stand in for the prompt. */
  readonly isTokenizedByFrontend?: boolean;
}

const kinds: readonly Kind[] = [
  { name: "chat", path: chat, body: { messages } },
  { name: "chat as a stream", path: chat, body: { messages, stream: true, stream_options: { include_usage: true } } },
  {
    name: "chat with content parts",
    path: chat,
    body: { messages: [{ role: "user", content: [{ type: "text", text: words }] }] },
  },
  {
    name: "chat with tools",
    path: chat,
    body: {
      messages,
      tools: [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }],
    },
  },
  { name: "chat of an adapter", path: chat, body: { model: "law", messages } },
  { name: "completions", path: completions, body: { prompt: words } },
  {
    name: "completions as a stream",
    path: completions,
    body: { prompt: words, stream: true, stream_options: { include_usage: true } },
  },
  {
    name: "completions of token ids",
    path: completions,
    body: { prompt: Array.from({ length: 70 }, (_, i) => 100 + i) },
  },
  { name: "completions of an adapter", path: completions, body: { model: "law", prompt: words } },
  {
    name: "a batch of prompts",
    path: completions,
    body: { prompt: [words, `${words} and more`] },
    times: 2,
    isTokenizedByFrontend: true,
  },
  {
    name: "a batch of token ids",
    path: completions,
    body: {
      prompt: [
        [100, 101, 102],
        [103, 104, 105, 106],
      ],
    },
    times: 2,
  },
];

/** From the answer's usage, of a stream its last. */
function promptTokensOf({ text }: Answer): number | undefined {
  const [, tokens] = [...text.matchAll(/"prompt_tokens":(\d+)/g)].at(-1) ?? [];
  return tokens === undefined ? undefined : Number(tokens);
}

/** The prompt's ids as the frontend has them. */
function idsIn({ text }: Answer): string | undefined {
  return /"prompt_token_ids":\[([\d,]+)\]/.exec(text)?.[1];
}

function idIn({ text }: Answer, member: string): string | undefined {
  return new RegExp(`"${member}":(\\d+)`).exec(text)?.[1];
}

describe.each([
  ["aggregated", { workers: 4 }],
  ["disaggregated", { layout: "disaggregated", prefill: 2, decode: 2 }],
] as const)("%s", (layout, options) => {
  let stack: DynamoStack;
  let gateway: Gateway;
  /** Leaves tokenizing to the frontend. */
  let withoutIds: Gateway;
  beforeAll(async () => {
    stack = await startDynamo({ ...options, adapters: ["law"] });
    gateway = await startGateway(stack, { layout });
    withoutIds = await startGateway(stack, { layout, router: { injectTokens: false } });
  });
  afterAll(async () => {
    await gateway?.close();
    await withoutIds?.close();
    await stack?.close();
  });
  afterEach(async () => {
    await gateway.idle();
    await withoutIds.idle();
  });

  const ask = async (
    path: string,
    body: Readonly<Record<string, unknown>>,
    headers: Readonly<Record<string, string>> = {},
    through = gateway,
  ): Promise<{ readonly answer: Answer; readonly decision: Decision; readonly served: readonly string[] }> => {
    const before = await stack.served();
    const requestId = randomUUID();
    const answer = await send(`${through.url}${path}`, {
      headers: { ...headers, "x-request-id": requestId },
      body: { model: stack.model, max_tokens: 4, ...body },
    });
    const served = [...(await stack.served())].flatMap(([id, count]) =>
      Array.from({ length: count - (before.get(id) ?? 0) }, () => String(id)),
    );
    return { answer, decision: await through.decisionOf(requestId), served: served.sort() };
  };
  const legsOf = ({ plan }: Decision): string[] =>
    [plan?.prefill?.workerId, plan?.decode.workerId].flatMap((id) => (id === undefined ? [] : [id]));

  it.each(kinds.map((kind) => [kind.name, kind] as const))("serves %s where it was planned", async (_, kind) => {
    const { answer, decision, served } = await ask(kind.path, { ...kind.body, ...told });
    expect([answer.status, answer.text]).toEqual([200, expect.stringContaining('"choices"')]);
    const legs = legsOf(decision);
    expect(decision.plan?.mode).toBe(layout);
    expect(served).toEqual(
      Array.from({ length: kind.times ?? 1 }, () => legs)
        .flat()
        .sort(),
    );
    expect(idIn(answer, "decode_worker_id")).toBe(decision.plan?.decode.workerId);
    if (layout === "disaggregated") expect(idIn(answer, "prefill_worker_id")).toBe(decision.plan?.prefill?.workerId);
    expect(answer.text).toContain(decision.plan?.bookingId ?? "a booking id");
  });

  it.each(kinds.map((kind) => [kind.name, kind] as const))(
    "gives %s the tokens that the frontend itself gives it",
    async (_, kind) => {
      const body = { ...kind.body, ...told };
      const { answer, decision } = await ask(kind.path, body);
      const headers = {
        "x-dynamo-worker-instance-id": decision.plan?.decode.workerId ?? "",
        "x-dynamo-prefill-instance-id": decision.plan?.prefill?.workerId ?? "",
      };
      const ownAnswer = (changes: Kind["body"]): Promise<Answer> =>
        send(`${stack.frontend.url}${kind.path}`, {
          headers,
          body: { model: stack.model, max_tokens: 4, ...body, ...changes },
        });
      const own = await ownAnswer({});
      expect(own.status).toBe(200);
      expect(promptTokensOf(own)).toBeGreaterThan(0);
      expect(promptTokensOf(answer)).toBe(promptTokensOf(own));
      if (kind.times === undefined) {
        expect(idsIn(own)).toMatch(/^\d+(,\d+)+$/);
        expect(idsIn(answer)).toBe(idsIn(own));
      } else {
        // Of a batch the frontend tells one prompt's ids, whichever it had last.
        const prompts = kind.body["prompt"] as readonly unknown[];
        const each = await Promise.all(prompts.map(async (prompt) => idsIn(await ownAnswer({ prompt }))));
        expect(new Set(each).size).toBe(kind.times);
        expect(each).toContain(idsIn(own));
        expect(each).toContain(idsIn(answer));
      }
      expect(decision.plan?.promptTokens).toBe(promptTokensOf(own));
    },
  );

  // Decode workers behind prefill workers say nothing of it: there is no prefill of theirs to end.
  if (layout === "aggregated") {
    it("hears from the worker itself that its first token is there", async () => {
      const prefilled = async (): Promise<number> =>
        (await gateway.sets()).reduce((sum, { replicas }) => sum + Number(replicas["prefilled"]), 0);
      const before = await prefilled();
      // A short answer may be over, and its booking with it, before the worker's word of its first token is here.
      await eventually("it is heard", async () => {
        await ask(chat, { messages, stream: true, max_tokens: 256 });
        return (await prefilled()) > before;
      });
      expect((await gateway.sets()).map(({ replicas }) => replicas["routerId"])).toContain(null);
    });
  }

  /** What the frontend itself tokenizes it warns of, so its log tells where the picker's ids stood in for the prompt. */
  const tokenizedByFrontend = (): number => stack.frontend.process.log().split("tokenizing prompt").length - 1;

  it.each(kinds.map((kind) => [kind.name, kind] as const))(
    "sends token ids with %s where they are safe",
    async (_, kind) => {
      const before = tokenizedByFrontend();
      await ask(kind.path, kind.body);
      expect(tokenizedByFrontend() - before > 0).toBe(kind.isTokenizedByFrontend === true);
    },
  );

  /**
   * Blocks are found by hashes of ids: those of the workers' events come from the frontend's own tokens here, those asked for from the picker's.
   * The mocker keeps an adapter's blocks as the model's, which no engine does, so nothing of an adapter is ever found.
   */
  it.each(
    kinds
      .filter(({ times, body }) => times === undefined && body["model"] === undefined)
      .map((kind) => [kind.name, kind] as const),
  )("finds the blocks of %s that the frontend tokenized", async (name, kind) => {
    const own = JSON.stringify(kind.body).replaceAll("word", name.replaceAll(" ", "")).replace("100,101", "101,100");
    const body = JSON.parse(own) as Kind["body"];
    const { answer } = await ask(kind.path, body, {}, withoutIds);
    const blocks = Math.floor((promptTokensOf(answer) ?? 0) / 16);
    expect(blocks).toBeGreaterThan(3);
    await eventually("the blocks are known to the picker", async () => {
      const { plan } = (await ask(kind.path, body, {}, withoutIds)).decision;
      return ((plan?.prefill ?? plan?.decode)?.deviceBlocks ?? 0) >= blocks - 1;
    });
  });

  it("sends a repeated prompt where it is cached", async () => {
    const body = { messages: [{ role: "user", content: `cached ${words} ${words} ${words}` }] };
    const first = await ask(chat, body);
    const again = await ask(chat, body);
    const leg = ({ plan }: Decision) => plan?.prefill ?? plan?.decode;
    expect(leg(again.decision)?.workerId).toBe(leg(first.decision)?.workerId);
    expect(leg(again.decision)?.cachedTokens).toBeGreaterThan(100);
  });

  it.each([
    ["backend_instance_id", 12345],
    ["decode_worker_id", 12345],
    ["prefill_worker_id", 12345],
    ["dp_rank", 7],
    ["token_data", [1, 2, 3]],
    ["token_data", []],
  ])("lets a client's nvext.%s %j change nothing", async (member, value) => {
    const body = { messages };
    const plain = await ask(chat, body);
    const { answer, decision, served } = await ask(chat, { ...body, nvext: { ...told.nvext, [member]: value } });
    expect(answer.status).toBe(200);
    expect(served).toEqual(legsOf(decision).sort());
    expect(idIn(answer, "decode_worker_id")).toBe(decision.plan?.decode.workerId);
    expect(promptTokensOf(answer)).toBe(promptTokensOf(plain.answer));
  });

  it.each([
    ["x-dynamo-worker-instance-id", "12345"],
    ["x-worker-instance-id", "12345"],
    ["x-dynamo-prefill-instance-id", "12345"],
    ["x-prefill-instance-id", "12345"],
    ["x-dynamo-dp-rank", "7"],
    ["x-dp-rank", "7"],
    ["x-data-parallel-rank", "7"],
    ["x-dynamo-prefill-dp-rank", "7"],
    ["x-prefill-dp-rank", "7"],
    ["x-dynamo-routing-mode", "garbage"],
    ["x-dynamo-request-id", "not-a-uuid"],
    ["x-gateway-destination-endpoint", "127.0.0.1:1"],
    ["x-prefiller-host-port", "127.0.0.1:1"],
  ])("takes no worker from a client's %s", async (name, value) => {
    const { answer, decision, served } = await ask(chat, { messages, ...told }, { [name]: value });
    expect(answer.status).toBe(200);
    expect(served).toEqual(legsOf(decision).sort());
    expect(idIn(answer, "decode_worker_id")).toBe(decision.plan?.decode.workerId);
    expect(answer.text).not.toContain("not-a-uuid");
  });

  it.each([[false], [true]])("answers 1,000 requests without an error (stream: %s)", async (stream) => {
    const before = await gateway.decisions(1);
    const load = await sendLoad({ url: gateway.url, stack, stream, requests: 1_000, concurrency: 16 });
    expect(load.faults).toEqual([]);
    expect([...load.statuses]).toEqual([[200, 1_000]]);
    expect(before).toHaveLength(1);
    const planned = new Map<string, number>();
    for (const decision of await gateway.decisions(1_000)) {
      for (const id of legsOf(decision)) planned.set(id, (planned.get(id) ?? 0) + 1);
    }
    for (const [id, count] of load.served) expect([id, count]).toEqual([id, planned.get(String(id)) ?? 0]);
    expect(Math.min(...load.served.values())).toBeGreaterThan(0);
  });
});
