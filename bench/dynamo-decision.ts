/**
 * CPU time of a decision for Dynamo workers with everything in it: a chat's tokens, its block hashes, plan() and its books, over 64 workers. Every prompt
 * is new, of words that are known. Beside it what Hugging Face's tokenizers, which Dynamo's frontend uses, take for the tokens alone, where
 * DYNAMO_PYTHON names an interpreter that has the wheels.
 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { createDecider, modelPath, newTexts } from "./dynamo-decider.ts";
import { seeded } from "./dynamo-fleet.ts";
import { interpreterWithWheels } from "./dynamo-wheels.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const workers = 64;
const promptBytes = 4096;
const prompts = 1_500;
const manyTokens = 4_000;
/** Enough text for about that many tokens of a common vocabulary; the figure is for exactly that many. */
const longBytes = 14_000;
const longPrompts = 400;

/** Microseconds of CPU and tokens of one call; what the process does besides, its collections and the tokenizer thread, is in it. */
async function measured(
  bodies: readonly Buffer[],
  call: (body: Buffer, done: (tokens: number) => void) => void,
): Promise<{ readonly micros: number; readonly tokens: number }> {
  const warmUp = bodies.length >> 1;
  let tokens = 0;
  let before = process.cpuUsage();
  for (let number = 0; number < bodies.length; number++) {
    if (number === warmUp) {
      before = process.cpuUsage();
      tokens = 0;
    }
    const body = bodies[number] ?? Buffer.alloc(0);
    tokens += await new Promise<number>((resolve) => call(body, resolve));
  }
  const { user, system } = process.cpuUsage(before);
  const count = bodies.length - warmUp;
  return { micros: (user + system) / count, tokens: tokens / count };
}

async function measureOnce(seed: number): Promise<Run> {
  const decider = await createDecider({ workers, random: seeded(seed) });
  try {
    const short = decider.bodies(promptBytes, 2 * prompts);
    const whole = await measured(short.slice(0, prompts), (body, done) => decider.decide(body, undefined, done));
    const alone = await measured(short.slice(prompts), (body, done) => decider.tokens(body, done));
    const long = await measured(decider.bodies(longBytes, longPrompts), (body, done) =>
      decider.decide(body, undefined, done),
    );
    return {
      "decision-4k-cpu": whole.micros,
      "decision-4k-tokens-cpu": alone.micros,
      "decision-4k-tokens": alone.tokens,
      "decision-4000-cpu": (long.micros * manyTokens) / long.tokens,
    };
  } finally {
    await decider.close();
  }
}

/** The same texts as one string each, without template, JSON or special tokens. */
async function measurePeer(): Promise<Run> {
  const python = interpreterWithWheels();
  if (python === undefined) return {};
  const script = join(import.meta.dirname, "../test/dynamo/oracles/time_tokens.py");
  const texts = JSON.stringify([newTexts(promptBytes, 400), newTexts(longBytes, 100)]);
  const running = promisify(execFile)(python, ["-P", script, join(modelPath, "tokenizer.json")]);
  // One that ends before it has read them says why on its own.
  running.child.stdin?.on("error", () => {});
  running.child.stdin?.end(texts);
  const [short, long] = JSON.parse((await running).stdout) as readonly {
    readonly micros: number;
    readonly tokens: number;
  }[];
  if (short === undefined || long === undefined) throw new Error("time_tokens.py gave no figures");
  return { "tokenizers-4k-cpu": short.micros, "tokenizers-4000-cpu": (long.micros * manyTokens) / long.tokens };
}

export const dynamoDecision: Measurement = {
  name: "dynamo-decision",
  what: `Decisions for ${workers} Dynamo workers, tokens included`,
  isLatency: false,
  figures: [
    {
      name: "decision-4k-cpu",
      title: "Decision for a new prompt of 4 KiB, tokens included, CPU",
      unit: "µs",
      digits: 0,
    },
    {
      name: "decision-4k-tokens-cpu",
      title: "… of which its tokens",
      unit: "µs",
      digits: 0,
      dynamo: "tokenizers-4k-cpu",
    },
    { name: "decision-4k-tokens", title: "… how many tokens", unit: "", digits: 0 },
    {
      name: "decision-4000-cpu",
      title: "Decision for 4,000 new tokens, CPU",
      unit: "µs",
      digits: 0,
      dynamo: "tokenizers-4000-cpu",
    },
  ],
  measure: (context: Context) =>
    repeat(context, async (number) => ({ ...(await measureOnce(number + 1)), ...(await measurePeer()) })),
};

if (import.meta.main) {
  for (let run = 1; run <= 3; run++) console.log({ ...(await measureOnce(run)), ...(await measurePeer()) });
}
