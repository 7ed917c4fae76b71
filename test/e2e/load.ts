/** Steady load on a URL: so many requests in flight until so many are done or it is told to stop; every outcome is kept. */
import { Agent, request } from "node:http";

export interface Outcome {
  /** 0 where no whole answer came. */
  readonly status: number;
  /** performance.now() at its start and end. */
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  /** The answer where it was none of 200, or what went wrong. */
  readonly note: string;
  /** Who answered, as the header x-signalbox-worker says; "" where it does not. */
  readonly worker: string;
}

export interface LoadOptions {
  readonly url: string;
  readonly concurrency: number;
  /** Undefined: until stopped. */
  readonly total?: number;
  readonly body: (i: number) => string;
}

export interface Load {
  readonly outcomes: readonly Outcome[];
  /** Resolves when all requests are over. */
  readonly done: Promise<void>;
  /** No further request; resolves as `done`. */
  stop(): Promise<void>;
}

const stuckMs = 30_000;

export function startLoad(options: LoadOptions): Load {
  const agent = new Agent({ keepAlive: true, maxSockets: options.concurrency });
  const outcomes: Outcome[] = [];
  let started = 0;
  let isStopped = false;
  const lane = async (): Promise<void> => {
    while (!isStopped && (options.total === undefined || started < options.total)) {
      outcomes.push(await post(agent, options.url, options.body(started++)));
    }
  };
  const done = Promise.all(Array.from({ length: options.concurrency }, lane)).then(() => agent.destroy());
  return {
    outcomes,
    done,
    stop() {
      isStopped = true;
      return done;
    },
  };
}

function post(agent: Agent, url: string, body: string): Promise<Outcome> {
  const startedAtMs = performance.now();
  return new Promise((resolve) => {
    let worker = "";
    const finish = (status: number, note: string): void =>
      resolve({ status, startedAtMs, endedAtMs: performance.now(), note, worker });
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const outgoing = request(url, { agent, method: "POST", headers, timeout: stuckMs }, (response) => {
      let text = "";
      worker = String(response.headers["x-signalbox-worker"] ?? "");
      response.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("error", (error) => finish(0, String(error)));
      response.on("end", () =>
        finish(response.complete ? (response.statusCode ?? 0) : 0, response.statusCode === 200 ? "" : text),
      );
    });
    outgoing.on("timeout", () => outgoing.destroy(new Error(`no answer within ${stuckMs} ms`)));
    outgoing.on("error", (error) => finish(0, String(error)));
    outgoing.end(body);
  });
}

/** Status → how often. */
export function tally(outcomes: readonly Outcome[]): Readonly<Record<number, number>> {
  const counts: Record<number, number> = {};
  for (const { status } of outcomes) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}
