/** The load client's process: `node bench/load/main.ts OPTIONS` with a LoadOptions in JSON; prints one LoadResult in JSON. */
import { once } from "node:events";
import { LoadConnection } from "./connection.ts";
import type { LoadOptions, LoadResult } from "./options.ts";
import { cpuMicros, residentBytes } from "./process-cost.ts";
import { createScript } from "./script.ts";

function quantile(sorted: Float64Array, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

function say(line: unknown): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

class Load {
  readonly #options: LoadOptions;
  readonly #connections: LoadConnection[] = [];
  readonly #decisions: number[] = [];
  readonly #streams: number[] = [];
  #isMeasuring = false;
  #isStopping = false;
  #failures = 0;
  #firstFailure = "";
  #held = 0;
  #turn = 0;

  constructor(options: LoadOptions) {
    this.#options = options;
    const script = createScript(options.shape);
    for (let i = 0; i < options.connections; i++) {
      this.#connections.push(
        new LoadConnection(options.port, script, {
          done: (startedMs, decidedMs, connection) => this.#done(startedMs, decidedMs, connection),
          held: () => {
            this.#held++;
          },
          failed: (what) => this.#failed(what),
        }),
      );
    }
  }

  #done(startedMs: number, decidedMs: number, connection: LoadConnection): void {
    if (this.#isMeasuring) {
      this.#decisions.push(decidedMs);
      this.#streams.push(performance.now() - startedMs);
    }
    if (this.#options.ratePerSecond === 0 && !this.#isStopping) connection.start();
  }

  #failed(what: string): void {
    if (this.#isStopping) return;
    this.#failures++;
    if (this.#firstFailure === "") this.#firstFailure = what;
  }

  #startOne(): void {
    this.#connections[this.#turn++ % this.#connections.length]?.start();
  }

  /** Starts streams when they are due; never early, and all that are due when it comes late. Ends when the time is up. */
  async #openLoop(untilMs: number): Promise<void> {
    const gapMs = 1000 / this.#options.ratePerSecond;
    let nextMs = performance.now();
    for (let nowMs = nextMs; nowMs < untilMs; nowMs = performance.now()) {
      for (; nextMs <= nowMs; nextMs += gapMs) this.#startOne();
      // A timer is a millisecond coarse: near the time, turn the event loop instead.
      const waitMs = nextMs - performance.now();
      await new Promise<void>((resolve) => {
        if (waitMs > 2) setTimeout(resolve, waitMs - 1.5);
        else setImmediate(resolve);
      });
    }
  }

  async #run(forMs: number): Promise<void> {
    const untilMs = performance.now() + forMs;
    if (this.#options.ratePerSecond > 0) await this.#openLoop(untilMs);
    else await new Promise((resolve) => setTimeout(resolve, forMs));
  }

  async measure(): Promise<LoadResult> {
    const { pid, warmupMs, measureMs, concurrency, ratePerSecond } = this.#options;
    if (ratePerSecond === 0) for (let i = 0; i < concurrency; i++) this.#startOne();
    await this.#run(warmupMs);
    this.#isMeasuring = true;
    const own = process.cpuUsage();
    const pickerBefore = cpuMicros(pid);
    const fromMs = performance.now();
    say({ event: "measuring" });
    await this.#run(measureMs);
    this.#isMeasuring = false;
    const seconds = (performance.now() - fromMs) / 1000;
    const pickerMicros = cpuMicros(pid) - pickerBefore;
    const { user, system } = process.cpuUsage(own);
    const count = this.#decisions.length;
    const decisions = Float64Array.from(this.#decisions).sort();
    const streams = Float64Array.from(this.#streams).sort();
    return {
      streams: count,
      failures: this.#failures,
      firstFailure: this.#firstFailure,
      seconds,
      streamsPerSecond: count / seconds,
      pickerMicrosPerStream: pickerMicros / count,
      pickerShare: pickerMicros / 1e6 / seconds,
      clientMicrosPerStream: (user + system) / count,
      decisionP50Ms: quantile(decisions, 0.5),
      decisionP99Ms: quantile(decisions, 0.99),
      streamP50Ms: quantile(streams, 0.5),
      streamP99Ms: quantile(streams, 0.99),
      pickerResidentBytes: residentBytes(pid),
    };
  }

  /** Opens the streams little by little, says when all are held, and keeps them until stdin ends. */
  async hold(): Promise<void> {
    for (let i = 0; i < this.#options.concurrency; i++) {
      this.#startOne();
      while (i + 1 - this.#held > 32 && this.#failures === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    while (this.#held < this.#options.concurrency && this.#failures === 0) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    say({ event: "held", held: this.#held, failures: this.#failures, firstFailure: this.#firstFailure });
    process.stdin.resume();
    await once(process.stdin, "end");
  }

  close(): void {
    this.#isStopping = true;
    for (const connection of this.#connections) connection.close();
  }
}

const options = JSON.parse(process.argv[2] ?? "{}") as LoadOptions;
const load = new Load(options);
if (options.shape.hold) await load.hold();
else say(await load.measure());
load.close();
