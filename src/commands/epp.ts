/** `signalbox epp`: the endpoint picker as a process. Signals: the first SIGTERM or SIGINT drains, the second ends at once. */
import { readFileSync } from "node:fs";
import { startEpp } from "../app/epp.ts";
import { ConfigError } from "../config/complete-config.ts";
import { parseBytes } from "../config/duration.ts";
import { parseEndpointList } from "../data/discovery/static.ts";
import type { Logger } from "../telemetry/log.ts";
import { createLogger, type LogLevel, levelOfVerbosity } from "../telemetry/logger.ts";
import { defineCommand, exitCode } from "./command.ts";
import { type EppSettings, eppFlags } from "./epp-flags.ts";

function validate(settings: EppSettings, given: ReadonlySet<string>): readonly string[] {
  const faults: string[] = [];
  if (given.has("config-file") && given.has("config-text"))
    faults.push("--config-file and --config-text exclude each other");
  if (given.has("endpoints"))
    faults.push(
      ...parseEndpointList(settings.endpoints.join(","), "default").faults.map((fault) => `--endpoints: ${fault}`),
    );
  for (const name of ["grpc-max-recv-msg-size", "grpc-max-send-msg-size"] as const) {
    if (settings[name] !== "" && parseBytes(settings[name]) === undefined)
      faults.push(`--${name}: expected a number of bytes like "4194304" or "64Mi"`);
  }
  if (settings["endpoint-selector"] !== "")
    faults.push(
      "--endpoint-selector: Kubernetes discovery is not built yet; use --endpoints or the file-discovery plugin",
    );
  if (settings["ha-enable-leader-election"])
    faults.push("--ha-enable-leader-election: leader election is not built yet");
  if (!given.has("endpoints") && !given.has("config-file") && !given.has("config-text")) {
    faults.push(
      "no endpoints: give --endpoints ip:port,... or a configuration with a discovery plugin (Kubernetes discovery is not built yet)",
    );
  }
  return faults;
}

function loggerOf(settings: EppSettings): Logger {
  const zapLevels: Readonly<Record<string, LogLevel>> = { debug: "debug", info: "info", error: "error", warn: "warn" };
  const zapLevel = settings["zap-log-level"];
  const verbosity = /^\d+$/.test(zapLevel) ? Number(zapLevel) : settings.v;
  const wantsPretty =
    settings["log-format"] === "pretty" || settings["zap-encoder"] === "console" || settings["zap-devel"];
  const wantsJson = settings["log-format"] === "json" || settings["zap-encoder"] === "json";
  return createLogger({
    level: zapLevels[zapLevel] ?? levelOfVerbosity(verbosity),
    format: wantsJson ? "json" : wantsPretty || process.stderr.isTTY === true ? "pretty" : "json",
  });
}

function packageVersion(): string {
  const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  return manifest.version;
}

/** The first signal; a second one ends the process at once. */
function firstSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let isStopping = false;
    const stop = (signal: NodeJS.Signals): void => {
      if (isStopping) process.exit(exitCode.failed);
      isStopping = true;
      resolve(signal);
    };
    process.on("SIGTERM", stop);
    process.on("SIGINT", stop);
  });
}

function explain(error: unknown): string {
  const lines: string[] = [];
  for (let cause = error; cause !== undefined && cause !== null; cause = (cause as { cause?: unknown }).cause) {
    lines.push((cause as { message?: string }).message ?? String(cause));
  }
  return lines.join(": ");
}

export const epp = defineCommand({
  name: "epp",
  summary: "the Endpoint Picker: an Envoy ext-proc server that routes each request to a model server",
  description: [
    "Serves Envoy's external processing protocol and answers each LLM request with the model server that will answer it soonest.",
    "Endpoints come from --endpoints or a discovery plugin; how they are chosen comes from an EndpointPickerConfig.",
  ].join("\n"),
  examples: [
    "signalbox epp --endpoints 10.0.0.1:8000,10.0.0.2:8000",
    "signalbox epp --config-file config.yaml --cert-path /certs --enable-cert-reload",
    "signalbox epp --endpoints 127.0.0.1:8000 --secure-serving=false --bind-address 127.0.0.1 -v 4",
  ],
  flags: eppFlags,
  validate,
  async run(settings, given, warnings) {
    const log = loggerOf(settings);
    for (const warning of warnings) log.warn({}, warning);
    const namespace = settings["pool-namespace"] || process.env["NAMESPACE"] || "default";
    const stopped = firstSignal();
    let running: Awaited<ReturnType<typeof startEpp>>;
    try {
      running = await startEpp({
        settings,
        log,
        version: packageVersion(),
        namespace,
        given,
        environment: process.env,
      });
    } catch (error) {
      process.stderr.write(`signalbox epp: ${explain(error)}\n`);
      return error instanceof ConfigError ? exitCode.usage : exitCode.failed;
    }
    const signal = await stopped;
    log.info({ signal }, "stopping");
    await running.drain();
    log.info({}, "stopped");
    return exitCode.ok;
  },
});
