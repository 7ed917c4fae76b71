/** An HTTP client in a process of its own: `node bench/load/first-byte.ts OPTIONS` sends requests at a rate to several URLs in turn and prints, for each, the time to the first byte. */
import { Agent, request } from "node:http";
import { chatBody } from "./chat-body.ts";

export interface FirstByteOptions {
  readonly urls: readonly string[];
  readonly bodyBytes: number;
  /** Of each URL. */
  readonly ratePerSecond: number;
  readonly warmupMs: number;
  readonly measureMs: number;
}

export interface FirstByteResult {
  readonly requests: number;
  readonly failures: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const options = JSON.parse(process.argv[2] ?? "{}") as FirstByteOptions;
const mark = "000000000000";
const body = chatBody(options.bodyBytes, "base-model", mark);
const markAt = body.indexOf(mark);
const targets = options.urls.map((url) => ({
  url: new URL("/v1/chat/completions", url),
  agent: new Agent({ keepAlive: true, maxSockets: 256 }),
  times: [] as number[],
  failures: 0,
}));
type Target = (typeof targets)[number];
let serial = 0;
let open = 0;
let isMeasuring = false;

function send(target: Target): void {
  const counts = isMeasuring;
  const bytes = Buffer.from(body);
  // Every other request repeats an earlier prompt, as turns of a conversation do.
  bytes.write(String(++serial >> 1).padStart(mark.length, "0"), markAt, "latin1");
  const failed = (): void => {
    target.failures++;
  };
  open++;
  const sentMs = performance.now();
  const call = request(target.url, {
    agent: target.agent,
    method: "POST",
    headers: { "content-type": "application/json", "content-length": bytes.length },
  });
  call.once("close", () => open--).once("error", failed);
  call.once("response", (response) => {
    if (response.statusCode !== 200) failed();
    response.once("data", () => {
      if (counts) target.times.push(performance.now() - sentMs);
    });
    response.once("error", failed);
  });
  call.end(bytes);
}

/** Targets take turns, so that what disturbs one disturbs all alike. */
async function run(forMs: number): Promise<void> {
  const gapMs = 1000 / options.ratePerSecond / targets.length;
  const untilMs = performance.now() + forMs;
  let turn = 0;
  let nextMs = performance.now();
  while (nextMs < untilMs) {
    const waitMs = nextMs - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    const target = targets[turn++ % targets.length];
    if (target !== undefined) send(target);
    nextMs += gapMs;
  }
}

function quantile(times: readonly number[], share: number): number {
  const sorted = Float64Array.from(times).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

await run(options.warmupMs);
isMeasuring = true;
await run(options.measureMs);
for (const end = performance.now() + 5_000; open > 0 && performance.now() < end; ) {
  await new Promise((resolve) => setTimeout(resolve, 10));
}
const results: FirstByteResult[] = targets.map(({ times, failures }) => ({
  requests: times.length,
  failures,
  p50Ms: quantile(times, 0.5),
  p99Ms: quantile(times, 0.99),
}));
process.stdout.write(`${JSON.stringify({ results })}\n`);
for (const { agent } of targets) agent.destroy();
