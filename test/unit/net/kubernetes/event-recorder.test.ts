import { afterEach, describe, expect, it } from "@jest/globals";
import { type ApiRequest, KubernetesApiError } from "../../../../src/net/kubernetes/api-client.ts";
import { type EventLimits, EventRecorder } from "../../../../src/net/kubernetes/event-recorder.ts";
import { until } from "../../dynamo/until.ts";

const about = { apiVersion: "example.com/v1", kind: "Pool", namespace: "ns", name: "pool", uid: "u-1" };
const aboutPool = () => Promise.resolve(about);
const quick: EventLimits = { burst: 100, refillMs: 1, updateMs: 0, restMs: 30 };

interface Sent {
  readonly method: string;
  readonly path: string;
  readonly body: {
    readonly reason?: string;
    readonly message: string;
    readonly count: number;
    readonly metadata?: { readonly name: string };
  };
}

const open: EventRecorder[] = [];
afterEach(async () => {
  for (const recorder of open.splice(0)) await recorder.close();
});

/** `answer` throws what the server refuses with. */
function record(limits: EventLimits, answer: (sent: Sent) => Promise<void> | void = () => {}) {
  const sent: Sent[] = [];
  const refusals: unknown[] = [];
  const recorder = new EventRecorder({
    api: {
      async request({ method = "GET", path, body = "" }: ApiRequest) {
        const one: Sent = { method, path, body: JSON.parse(body) as Sent["body"] };
        sent.push(one);
        await answer(one);
        return "{}";
      },
    },
    component: "signalbox",
    instance: "picker-0",
    refused: (error) => refusals.push(error),
    limits,
  });
  open.push(recorder);
  const note = (reason: string, message = "it is so"): void =>
    recorder.note("pool", aboutPool, { type: "Warning", reason, message });
  return { recorder, sent, refusals, note };
}

describe("an event recorder", () => {
  it("writes an Event about the object into the object's namespace", async () => {
    const { sent, note } = record(quick);
    note("NoEndpoints");
    await until(() => sent.length === 1);
    expect(sent[0]).toEqual({
      method: "POST",
      path: "/api/v1/namespaces/ns/events",
      body: {
        apiVersion: "v1",
        kind: "Event",
        metadata: { namespace: "ns", name: expect.stringMatching(/^pool\.[0-9a-f]{16}$/) },
        involvedObject: about,
        type: "Warning",
        reason: "NoEndpoints",
        message: "it is so",
        count: 1,
        firstTimestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/),
        lastTimestamp: expect.stringMatching(/Z$/),
        source: { component: "signalbox" },
        reportingComponent: "signalbox",
        reportingInstance: "picker-0",
      },
    });
  });

  it("counts what is alike in one Event, with the newest message", async () => {
    const { sent, note } = record(quick);
    note("A", "first");
    await until(() => sent.length === 1);
    note("A", "second");
    note("A", "third");
    await until(() => sent.length === 2);
    const name = sent[0]?.body.metadata?.name;
    expect(sent[1]).toMatchObject({ method: "PATCH", path: `/api/v1/namespaces/ns/events/${name}` });
    expect(sent[1]?.body).toMatchObject({ count: 3, message: "third" });
  });

  it("writes a new Event where the old one is gone", async () => {
    const { sent, note } = record(quick, ({ method }) => {
      if (method === "PATCH") throw new KubernetesApiError("gone", 404);
    });
    note("A");
    await until(() => sent.length === 1);
    note("A");
    await until(() => sent.length === 3);
    expect(sent.map(({ method }) => method)).toEqual(["POST", "PATCH", "POST"]);
    expect(sent[2]?.body.metadata?.name).not.toBe(sent[0]?.body.metadata?.name);
  });

  it("sends no more than its bucket holds, and loses no count by it", async () => {
    const { sent, note } = record({ ...quick, burst: 3, refillMs: 3_600_000 });
    for (let round = 0; round < 50; round++) {
      for (const reason of ["A", "B", "C", "D", "E"]) note(reason);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until(() => sent.length === 3);
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(sent).toHaveLength(3);
  });

  it("keeps a bounded number of different Events", () => {
    const { recorder, note } = record({ ...quick, burst: 1, refillMs: 3_600_000 });
    for (let i = 0; i < 200; i++) note(`R${i}`);
    expect(recorder.dropped).toBe(200 - 64);
  });

  it("says once that it may not, asks no more for a while, and then tries again", async () => {
    let isAllowed = false;
    const { sent, refusals, note } = record(quick, () => {
      if (!isAllowed) throw new KubernetesApiError("forbidden", 403);
    });
    note("A");
    await until(() => refusals.length === 1);
    note("B");
    await until(() => sent.length === 2);
    isAllowed = true;
    note("C");
    await until(() => sent.length === 3);
    note("D");
    await until(() => sent.length === 4);
    expect(refusals).toHaveLength(1);
  });

  it("waits out a server that is away", async () => {
    let tries = 0;
    const { sent, refusals, note } = record(quick, () => {
      if (++tries < 2) throw new KubernetesApiError("no answer", 0);
    });
    note("A");
    await until(() => sent.length === 2);
    expect(sent[1]?.body).toMatchObject({ reason: "A", count: 1 });
    expect(refusals).toEqual([]);
  });

  it("cuts a message to what the API server takes, at a character's end", async () => {
    const { sent, note } = record(quick);
    note("A", "ü".repeat(2000));
    await until(() => sent.length === 1);
    const message = sent[0]?.body.message ?? "";
    expect(Buffer.byteLength(message)).toBeLessThanOrEqual(1024);
    expect(message).toMatch(/^ü{500,}…$/);
  });

  it("holds nobody up while the server hangs, and ends when it is closed", async () => {
    let requests = 0;
    const recorder = new EventRecorder({
      api: {
        request: (_request, signal) => {
          requests++;
          return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new Error("aborted"))));
        },
      },
      component: "signalbox",
      instance: "picker-0",
      refused: () => {},
      limits: quick,
    });
    for (const reason of ["A", "B"]) recorder.note("pool", aboutPool, { type: "Normal", reason, message: "" });
    await until(() => requests === 1);
    await recorder.close();
    recorder.note("pool", aboutPool, { type: "Normal", reason: "C", message: "" });
    expect([requests, recorder.dropped]).toEqual([1, 0]);
  });
});
