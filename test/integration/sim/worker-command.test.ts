/** `signalbox worker` as a process: what it prints, what its flags reach, and how it ends. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "@jest/globals";

const launcher = fileURLToPath(new URL("../../../bin/signalbox", import.meta.url));

interface Process {
  readonly output: () => string;
  readonly exit: Promise<number | null>;
  signal(name: NodeJS.Signals): void;
}

const running: Process[] = [];

afterEach(async () => {
  for (const started of running.splice(0)) {
    started.signal("SIGKILL");
    await started.exit;
  }
});

function runWorker(flags: readonly string[]): Process {
  const child = spawn(launcher, ["worker", "--host", "127.0.0.1", "--port", "0", ...flags]);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const exit = once(child, "close").then(([code]) => code as number | null);
  const started: Process = { output: () => output, exit, signal: (name) => child.kill(name) };
  running.push(started);
  return started;
}

async function addressesOf(started: Process, count: number): Promise<readonly string[]> {
  const deadline = performance.now() + 10_000;
  for (;;) {
    const urls = [...started.output().matchAll(/ listens on (\S+)\n/g)].map((match) => match[1] ?? "");
    if (urls.length === count) return urls;
    if (performance.now() > deadline) throw new Error(`the worker did not start: ${started.output()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("signalbox worker", () => {
  it("runs as many workers as told, each under its own name, and ends with 0 at SIGTERM in the middle of an answer", async () => {
    const started = runWorker(["--count", "2", "--name", "sim", "--model", "m", "--lora-modules", "a,b"]);
    const urls = await addressesOf(started, 2);
    const answers = await Promise.all(
      urls.map((url) =>
        fetch(`${url}/v1/completions`, { method: "POST", body: '{"prompt":"x","max_tokens":9000,"stream":true}' }),
      ),
    );
    expect(answers.map(({ headers }) => headers.get("x-signalbox-worker"))).toEqual(["sim-0", "sim-1"]);
    const models = (await (await fetch(`${urls[0]}/v1/models`)).json()) as { data: readonly { id: string }[] };
    expect(models.data.map(({ id }) => id)).toEqual(["m", "a", "b"]);
    const cut = Promise.all(answers.map((answer) => expect(answer.text()).rejects.toThrow()));
    started.signal("SIGTERM");
    expect(await started.exit).toBe(0);
    await cut;
  });

  it.each([
    [["--block-size", "0"], 2, "--block-size"],
    [["--kv-replay-endpoint", "tcp://127.0.0.1:0"], 2, "--kv-replay-endpoint needs"],
    [["--kv-events-port", "5557", "--kv-events-endpoint", "tcp://*:5558"], 2, "exclude each other"],
    [["--kv-events-endpoint", "nonsense"], 1, "cannot open KV event sockets"],
  ])("ends with a clear line for %j", async (flags, code, message) => {
    const started = runWorker(flags);
    expect(await started.exit).toBe(code);
    expect(started.output()).toContain(message);
  });
});
