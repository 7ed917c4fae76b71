/** The benchmark's own arithmetic: medians, verdicts, what it reads from /proc and from V8, the bodies it sends. */
import { describe, expect, it } from "@jest/globals";
import { allocatedBytes } from "../../../bench/allocation.ts";
import { bars } from "../../../bench/bars.ts";
import { chatBody } from "../../../bench/load/chat-body.ts";
import { cpuMicros, residentBytes } from "../../../bench/load/process-cost.ts";
import { createScript, type Shape } from "../../../bench/load/script.ts";
import { median } from "../../../bench/measurement.ts";
import { metricsPage } from "../../../bench/metrics-page.ts";
import { parseProcessors } from "../../../bench/processors.ts";
import { verdictOf } from "../../../bench/report.ts";
import { ProcessingRequest } from "../../../src/gen/external_processor.ts";

const shape: Shape = {
  mode: "full-duplex",
  bodyBytes: 4096,
  authority: "signalbox",
  responseChunks: 2,
  model: "base-model",
  distinct: true,
  hold: false,
};

function messagesOf(bytes: Buffer): ProcessingRequest[] {
  const messages: ProcessingRequest[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at + 1);
    messages.push(ProcessingRequest.decode(bytes.subarray(at + 5, at + 5 + length)));
    at += 5 + length;
  }
  return messages;
}

function kinds(over: Partial<Shape>): (string | undefined)[][] {
  const { steps } = createScript({ ...shape, ...over });
  return steps.map(({ bytes }) => messagesOf(bytes).map(({ request }) => request?.$case));
}

describe("figures", () => {
  it.each([
    [[3, 1, 2], 2],
    [[4, 1, 3, 2], 2.5],
    [[7], 7],
  ])("takes the median of %j as %d", (values, expected) => {
    expect(median(values)).toBe(expected);
  });

  it("meets a bar at its limit and misses it above", () => {
    const figure = { name: "stream-4k-cpu", title: "", unit: "µs", digits: 0 };
    const limit = bars.get(figure.name)?.limit ?? 0;
    expect(verdictOf(figure, [limit])).toBe("met");
    expect(verdictOf(figure, [1, limit + 1, limit + 2])).toBe("missed");
    expect(verdictOf({ ...figure, name: "no bar" }, [1])).toBe("–");
  });

  it("reads allocated bytes from a line of V8's collection log and from no other", () => {
    expect(allocatedBytes("[7:0x1] 120 ms: pause=1.2 gc=s total_size_before=9 allocated=16777216 promoted=0")).toBe(
      16_777_216,
    );
    expect(allocatedBytes('{"msg":"the endpoint picker serves"}')).toBeUndefined();
  });

  it.each([
    ["0-1", [0, 1]],
    ["3,5-7\n", [3, 5, 6, 7]],
    ["2", [2]],
  ])("reads the processor list %j", (list, expected) => {
    expect(parseProcessors(list)).toEqual(expected);
  });

  it("counts processor time that this process has used", () => {
    const before = cpuMicros(process.pid);
    for (const end = process.cpuUsage().user + 30_000; process.cpuUsage().user < end; );
    expect(cpuMicros(process.pid) - before).toBeGreaterThan(10_000);
    expect(residentBytes(process.pid)).toBeGreaterThan(1024 * 1024);
  });
});

describe("what the load client sends", () => {
  it.each([4096, 65_536, 409_600])("makes a JSON body of about %d bytes", (size) => {
    const body = chatBody(size, "base-model", "000000000000");
    expect(Math.abs(body.length - size)).toBeLessThan(64);
    expect(JSON.parse(body.toString())).toMatchObject({ model: "base-model", stream: true });
  });

  it.each<[Partial<Shape>, string[][]]>([
    [
      { mode: "full-duplex" },
      [
        ["requestHeaders", "requestBody", "requestBody"],
        ["responseHeaders"],
        ["responseBody"],
        ["responseBody"],
        ["responseBody"],
      ],
    ],
    [{ mode: "response-none" }, [["requestHeaders", "requestBody", "requestBody"], ["responseHeaders"]]],
    [{ mode: "buffered" }, [["requestHeaders"], ["requestBody"], ["responseHeaders"]]],
    [{ hold: true }, [["requestHeaders", "requestBody", "requestBody"], ["responseHeaders"]]],
  ])("plays %j as the gateway does", (over, expected) => {
    expect(kinds(over)).toEqual(expected);
  });

  it("ends a body with an empty message in full duplex, after pieces of 64 KiB at most", () => {
    const [step] = createScript({ ...shape, bodyBytes: 400 * 1024 }).steps;
    const bodies = messagesOf(step?.bytes ?? Buffer.alloc(0)).flatMap(({ request }) =>
      request?.$case === "requestBody" ? [request.value] : [],
    );
    expect(bodies.map(({ body, endOfStream }) => [body.length, endOfStream]).at(-1)).toEqual([0, true]);
    expect(bodies.slice(0, -1).every(({ body, endOfStream }) => body.length <= 65_536 && !endOfStream)).toBe(true);
  });

  it("knows where a stream's own digits stand", () => {
    const script = createScript(shape);
    const bytes = script.steps[0]?.bytes ?? Buffer.alloc(0);
    expect(bytes.subarray(script.idAt, script.idAt + 12).toString()).toBe("000000000000");
    expect(bytes.subarray(script.distinctAt, script.distinctAt + 12).toString()).toBe("999999999999");
    expect(createScript({ ...shape, distinct: false }).distinctAt).toBe(-1);
  });

  it("serves metrics pages of 42 KB that differ in their values alone", () => {
    const [first, second] = [metricsPage(3).toString(), metricsPage(20).toString()];
    expect(Math.abs(first.length - 42_000)).toBeLessThan(1_500);
    const names = (page: string): string[] => page.split("\n").map((line) => line.split(" ")[0] ?? "");
    expect(names(second)).toEqual(names(first));
    expect(second).not.toBe(first);
  });
});
