/** Tokens of requests to raw engines: what each end of a backend means for the request. */
import { describe, expect, it } from "@jest/globals";
import type { PromptTokens } from "../../../../src/data/attributes.ts";
import { TokenizeError } from "../../../../src/data/producers/token-backend.ts";
import type { RequestTokens } from "../../../../src/prefill-router/fleet/route-table.ts";
import { tokenizeThrough } from "../../../../src/prefill-router/standalone/request-tokenizer.ts";
import type { InferenceRequest } from "../../../../src/request/inference-request.ts";

const chat = { parsed: { prompt: { kind: "chat" } } } as unknown as InferenceRequest;
const ids = [Uint32Array.of(1, 2, 3)];
const tokens: PromptTokens = { ids, exact: true };

/** The outcome of the first request, and how often one came. */
async function outcomeOf(answer: () => PromptTokens | Promise<PromptTokens | undefined> | undefined) {
  const outcomes: RequestTokens[] = [];
  await new Promise<void>((resolve) => {
    tokenizeThrough({ tokens: answer })(chat, (outcome) => {
      outcomes.push(outcome);
      resolve();
    });
  });
  await Promise.resolve();
  expect(outcomes).toHaveLength(1);
  return outcomes[0];
}

describe("tokens of a request", () => {
  const media = [[{ hash: 7n, firstToken: 1, tokens: 2 }]];
  it.each([
    ["at once", () => tokens, { kind: "tokens", prompts: ids, isAuthoritative: false }],
    ["later", () => Promise.resolve(tokens), { kind: "tokens", prompts: ids, isAuthoritative: false }],
    ["with media", () => ({ ...tokens, media }), { kind: "tokens", media }],
    ["that are none", () => undefined, { kind: "none" }],
    ["that are none, later", () => Promise.resolve(undefined), { kind: "none" }],
    ["that are estimated", () => ({ ids, exact: false }), { kind: "none" }],
    ["too late", () => Promise.reject(new TokenizeError("TIMEOUT", "slow")), { kind: "timeout" }],
    ["refused", () => Promise.reject(new TokenizeError("STATUS", "400")), { kind: "failed", message: "400" }],
    [
      "of a broken backend",
      () => {
        throw new Error("broken");
      },
      { kind: "failed", message: "broken" },
    ],
  ])("%s", async (_, answer, expected) => {
    expect(await outcomeOf(answer)).toMatchObject(expected);
  });

  it("are the client's own where it sent them, whatever the backend", () => {
    const request = { parsed: { prompt: { kind: "tokens", chains: ids } } } as unknown as InferenceRequest;
    const outcomes: RequestTokens[] = [];
    const backend = {
      tokens: () => {
        throw new Error("asked");
      },
    };
    tokenizeThrough(backend)(request, (outcome) => outcomes.push(outcome));
    expect(outcomes).toMatchObject([{ kind: "tokens", prompts: ids }]);
  });

  it("are none without a backend", () => {
    const outcomes: RequestTokens[] = [];
    tokenizeThrough(undefined)(chat, (outcome) => outcomes.push(outcome));
    expect(outcomes).toEqual([{ kind: "none" }]);
  });

  it("come to nobody who has left", async () => {
    const answer = Promise.resolve(tokens);
    let calls = 0;
    tokenizeThrough({ tokens: () => answer })(chat, () => {
      calls += 1;
    }).cancel();
    await answer;
    await new Promise((resolve) => setImmediate(resolve));
    expect(calls).toBe(0);
  });
});
