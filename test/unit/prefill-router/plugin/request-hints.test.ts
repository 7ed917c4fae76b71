import { describe, expect, it } from "@jest/globals";
import { requestHints } from "../../../../src/prefill-router/plugin/request-hints.ts";
import { InferenceRequest } from "../../../../src/request/inference-request.ts";
import { createParserSet } from "../../../../src/request/parser-set.ts";
import { isRejection } from "../../../../src/request/rejection.ts";

const parsers = createParserSet(["openai-parser", "passthrough-parser"]);

function hints(body: object, headers: Readonly<Record<string, string>> = {}) {
  const bytes = Buffer.from(JSON.stringify({ model: "m", messages: [{ role: "user", content: "hi" }], ...body }));
  const path = "/v1/chat/completions";
  const parsed = parsers.parse("POST", path, new Map(), bytes);
  if (isRejection(parsed)) throw new Error(parsed.message);
  return requestHints(
    new InferenceRequest({
      id: "1",
      method: "POST",
      path,
      headers: new Map(Object.entries(headers)),
      body: bytes,
      parsed,
      receivedAtMs: 0,
    }),
  );
}

describe("requestHints", () => {
  it("are all absent where the client says nothing", () => {
    expect(hints({})).toEqual({
      cacheSalt: undefined,
      priorityJump: 0,
      strictPriority: 0,
      policyClass: undefined,
      expectedOutputTokens: undefined,
      doNotQueue: false,
      constraints: undefined,
      sessionId: undefined,
      isSessionFinal: false,
    });
  });

  it.each([
    [{ nvext: { cache_salt: "a" }, cache_salt: "b" }, { "x-tenant-id": " t " }, "t"],
    [{ nvext: { cache_salt: "a" }, cache_salt: "b" }, { "x-tenant-id": " " }, "a"],
    [{ nvext: { cache_salt: "" }, cache_salt: "b" }, {}, "b"],
    [{ nvext: { cache_salt: 7 } }, {}, undefined],
  ])("take the salt from header, nvext and body in this order: %j %j", (body, headers, salt) => {
    expect(hints(body, headers).cacheSalt).toBe(salt);
  });

  it.each([
    [{ agent_hints: { priority: 3, strict_priority: 2 } }, {}, 3, 2],
    [
      { agent_hints: { priority: 3, strict_priority: 2 } },
      { "x-dynamo-request-priority": "9", "x-dynamo-request-strict-priority": "4" },
      9,
      4,
    ],
    [{ agent_hints: { priority: 3 } }, { "x-dynamo-request-priority": "high" }, 3, 0],
    [{ agent_hints: { priority: -5 } }, {}, 0, 0],
    [{ agent_hints: { latency_sensitivity: 1.5 } }, {}, 1.5, 0],
    [{ agent_hints: { priority: 0, latency_sensitivity: 1.5 } }, {}, 0, 0],
    [{ agent_hints: { strict_priority: -1 } }, {}, 0, 0],
  ])("read priorities from %j and %j", (nvext, headers, jump, strict) => {
    const read = hints({ nvext }, headers as Record<string, string>);
    expect([read.priorityJump, read.strictPriority]).toEqual([jump, strict]);
  });

  it("read the queue class, the expected output, the wish not to queue and constraints", () => {
    const read = hints(
      {
        nvext: {
          agent_hints: { osl: 128 },
          do_not_queue: true,
          routing_constraints: { required_taints: ["gpu=h100", 5], preferred_taints: { near: 2, far: "x" } },
        },
      },
      { "x-dynamo-meta-policy-class": "batch" },
    );
    expect(read).toMatchObject({ policyClass: "batch", expectedOutputTokens: 128, doNotQueue: true });
    expect(read.constraints).toEqual({ requiredTaints: ["gpu=h100"], preferredTaints: new Map([["near", 2]]) });
  });

  it.each([
    [{ "x-dynamo-session-id": "d", "x-claude-code-session-id": "c" }, "d"],
    [{ "x-claude-code-session-id": "c", "thread-id": "t" }, "c"],
    [{ "x-claude-code-session-id": "c", "x-claude-code-agent-id": "sub" }, "sub"],
    [{ "thread-id": "t", "x-session-id": "s" }, "t"],
    [{ "x-session-id": " s " }, "s"],
    [{ "session-id": "codex" }, undefined],
  ])("name the session by %j", (headers, session) => {
    expect(hints({}, headers as Record<string, string>).sessionId).toBe(session);
  });

  it.each([
    ["1", true],
    ["TRUE", true],
    ["0", false],
    ["x", false],
  ])("read the session's end from %j", (text, isFinal) => {
    expect(hints({}, { "x-dynamo-session-final": text }).isSessionFinal).toBe(isFinal);
  });

  it.each([[[]], ["text"], [null], [5]])("survive an nvext that is no object: %j", (nvext) => {
    expect(hints({ nvext }).priorityJump).toBe(0);
  });
});
