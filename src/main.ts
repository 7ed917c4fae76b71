/** argv → command. Commands are loaded only when they are asked for, so that none pays for another's imports. */
import type { Command } from "./commands/command.ts";

interface Entry {
  readonly summary: string;
  load(): Promise<Command>;
}

const commands: Readonly<Record<string, Entry>> = {
  epp: {
    summary: "the Endpoint Picker: an Envoy ext-proc server that routes each request to a model server",
    load: async () => (await import("./commands/epp.ts")).epp,
  },
  worker: {
    summary: "a simulated engine with vLLM's HTTP surface, for trying it without a GPU",
    load: async () => (await import("./commands/worker.ts")).worker,
  },
  "prefill-router": {
    summary: "the router alone, as an HTTP service with the routes of Dynamo's select service",
    load: async () => (await import("./commands/prefill-router.ts")).prefillRouter,
  },
  demo: {
    summary: "Envoy, the picker and four simulated workers, with traffic and a comparison",
    load: async () => (await import("./commands/demo.ts")).demo,
  },
};

function usage(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  return [
    "Signalbox routes LLM requests to the model server that will answer them soonest.",
    "",
    "Usage: signalbox COMMAND [flags]",
    "",
    "Commands:",
    ...Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`),
    "",
    "signalbox COMMAND --help shows a command's flags. signalbox --version prints the version.",
  ].join("\n");
}

async function version(): Promise<string> {
  const { readFile } = await import("node:fs/promises");
  const manifest: unknown = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8"));
  return typeof manifest === "object" && manifest !== null && "version" in manifest
    ? String(manifest.version)
    : "unknown";
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined) {
    process.stderr.write(`${usage()}\n`);
    return 2;
  }
  if (name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(`${usage()}\n`);
    return 0;
  }
  if (name === "--version" || name === "version") {
    process.stdout.write(`signalbox ${await version()}\n`);
    return 0;
  }
  const entry = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (entry === undefined) {
    process.stderr.write(`signalbox: unknown command ${JSON.stringify(name)}\n\n${usage()}\n`);
    return 2;
  }
  const command = await entry.load();
  return await command.run(rest, process.env);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`signalbox: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exitCode = 1;
}
