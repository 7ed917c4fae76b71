/** Many chat completions through one URL, so many at a time, with what became of each: for tests under load. */
import { Agent } from "node:http";
import { type Answer, send } from "./client.ts";
import type { DynamoStack } from "./stack.ts";

export interface LoadOptions {
  /** Base URL: of Envoy, a frontend or a router. */
  readonly url: string;
  readonly requests: number;
  readonly concurrency: number;
  readonly stream?: boolean;
  readonly model?: string;
  readonly maxTokens?: number;
  /** Content of the user's message of request i; all different unless given. */
  readonly prompt?: (index: number) => string;
  readonly headers?: (index: number) => Readonly<Record<string, string>>;
  /** What the body of request i holds besides. */
  readonly extra?: (index: number) => Readonly<Record<string, unknown>>;
  readonly timeoutMs?: number;
  /** Counts per worker are taken from this stack before and after. */
  readonly stack?: DynamoStack;
  /** Called as each answer ends, e.g. to kill a worker after the hundredth. */
  readonly onAnswer?: (done: number) => void;
  readonly signal?: AbortSignal;
}

export interface LoadResult {
  /** How often each status came; 0 stands for a broken connection or a time-out. */
  readonly statuses: ReadonlyMap<number, number>;
  /** Of answers with status 200 that ended as they should, ascending. */
  readonly firstByteMs: readonly number[];
  readonly totalMs: readonly number[];
  /** What was wrong with the others, the first of them. */
  readonly faults: readonly string[];
  /** Requests each worker has taken, those of a disaggregated request on both its workers; empty without `stack`. */
  readonly served: ReadonlyMap<bigint, number>;
  readonly seconds: number;
}

const keptFaults = 20;

export async function sendLoad(options: LoadOptions): Promise<LoadResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: options.concurrency });
  const statuses = new Map<number, number>();
  const firstByteMs: number[] = [];
  const totalMs: number[] = [];
  const faults: string[] = [];
  const servedBefore = await options.stack?.served();
  const startedAt = performance.now();
  let next = 0;
  let done = 0;
  const note = (status: number, fault: string | undefined): void => {
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    if (fault !== undefined && faults.length < keptFaults) faults.push(fault);
  };
  const sendInTurn = async (): Promise<void> => {
    while (next < options.requests && options.signal?.aborted !== true) {
      const index = next;
      next += 1;
      try {
        const answer = await sendOne(options, index, agent);
        const fault = faultOf(answer, options.stream === true);
        note(answer.status, fault === undefined ? undefined : `request ${index}: ${answer.status} ${fault}`);
        if (fault === undefined) {
          firstByteMs.push(answer.firstByteMs ?? answer.totalMs);
          totalMs.push(answer.totalMs);
        }
      } catch (error) {
        note(0, `request ${index}: ${String(error)}`);
      }
      done += 1;
      options.onAnswer?.(done);
    }
  };
  try {
    await Promise.all(Array.from({ length: options.concurrency }, sendInTurn));
  } finally {
    agent.destroy();
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const ascending = (left: number, right: number): number => left - right;
  const served = new Map<bigint, number>();
  for (const [id, count] of (await options.stack?.served()) ?? []) {
    served.set(id, count - (servedBefore?.get(id) ?? 0));
  }
  firstByteMs.sort(ascending);
  totalMs.sort(ascending);
  return { statuses, firstByteMs, totalMs, faults, served, seconds };
}

function sendOne(options: LoadOptions, index: number, agent: Agent): Promise<Answer> {
  return send(`${options.url}/v1/chat/completions`, {
    agent,
    ...(options.headers === undefined ? {} : { headers: options.headers(index) }),
    ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
    body: {
      model: options.model ?? options.stack?.model ?? "tiny",
      max_tokens: options.maxTokens ?? 4,
      ...(options.stream === true ? { stream: true, stream_options: { include_usage: true } } : {}),
      messages: [{ role: "user", content: options.prompt?.(index) ?? `request number ${index}` }],
      ...options.extra?.(index),
    },
  });
}

/** Why an answer is not what was asked for; undefined when it is. */
function faultOf({ status, text }: Answer, isStream: boolean): string | undefined {
  if (status !== 200) return text.slice(0, 300);
  if (isStream)
    return text.trimEnd().endsWith("data: [DONE]") ? undefined : `a stream that ends with ${text.slice(-200)}`;
  return text.includes('"choices":[{') ? undefined : `no choices: ${text.slice(0, 300)}`;
}
