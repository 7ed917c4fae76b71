/** `signalbox epp`: the endpoint picker as a process. Signals: the first SIGTERM or SIGINT drains, the second ends at once. */
import { readFileSync } from "node:fs";
import { logVerbosity, setLogVerbosity } from "@grpc/grpc-js";
import { type RunningEpp, startEpp } from "../app/epp.ts";
import { provideContracts } from "../app/plugin-contracts.ts";
import { watchUnexpectedErrors } from "../app/unexpected-errors.ts";
import { ConfigError } from "../config/complete-config.ts";
import type { Logger } from "../telemetry/log.ts";
import { createLogger, type LogLevel, levelOfVerbosity } from "../telemetry/logger.ts";
import { defineCommand, exitCode } from "./command.ts";
import { adaptToDynamo } from "./epp-dynamo.ts";
import { type EppSettings, eppFlags } from "./epp-flags.ts";
import { faultsOfEppFlags } from "./epp-validation.ts";

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

/** Resolves when too many errors were caught by nobody to trust the process further; until then it serves on. */
function untilBroken(log: Logger, running: Pick<RunningEpp, "noteUnexpectedError">): Promise<"broken"> {
  return new Promise((resolve) => {
    watchUnexpectedErrors({
      source: process,
      log,
      now: () => performance.now(),
      count: (kind) => running.noteUnexpectedError(kind),
      tooMany: () => resolve("broken"),
    });
  });
}

/** The error and its causes in one line, none said twice. */
function explain(error: unknown): string {
  const parts: string[] = [];
  for (let cause = error; cause !== undefined && cause !== null; cause = (cause as { cause?: unknown }).cause) {
    const text = cause instanceof Error ? cause.message : JSON.stringify(cause);
    if (!parts.some((part) => part.includes(text))) parts.push(text);
  }
  return parts.join(": ");
}

export const epp = defineCommand({
  name: "epp",
  summary: "the Endpoint Picker: an Envoy ext-proc server that routes each request to a model server",
  description: [
    "Serves Envoy's external processing protocol (ext-proc) and names, for each LLM request, the model server that will answer it soonest. Envoy carries the bytes.",
    "",
    "Endpoints are the pods of an InferencePool (--pool-name) or of a label selector (--endpoint-selector) in Kubernetes, a list (--endpoints), or what a discovery plugin of the configuration finds. How they are chosen comes from an EndpointPickerConfig (--config-file); without one, queue length, KV cache usage and prefix cache hits are weighed 2 : 2 : 3. docs/configuration.md lists every plugin.",
    "",
    "Before NVIDIA Dynamo workers, with DYN_NAMESPACE or DYN_EPP_MODE and without a configuration, it plans each request's prefill and decode worker as Dynamo's router does; docs/dynamo.md.",
    "",
    "SIGTERM drains: not ready at once, everything served on for --drain-timeout, then an end without a cut answer. A second signal ends the process at once.",
  ].join("\n"),
  examples: [
    "signalbox epp --pool-name llama --pool-namespace models",
    "signalbox epp --endpoints 10.0.0.1:8000,10.0.0.2:8000",
    "DYN_NAMESPACE=dynamo-demo DYN_DISCOVERY_BACKEND=etcd signalbox epp --dynamo-frontend :8000",
    "signalbox epp --config-file config.yaml --cert-path /certs --enable-cert-reload",
    "signalbox epp --endpoints 127.0.0.1:8000 --secure-serving=false --bind-address 127.0.0.1 -v 4",
  ],
  flags: eppFlags,
  adapt: adaptToDynamo,
  validate: faultsOfEppFlags,
  async run(settings, given, warnings) {
    const log = loggerOf(settings);
    for (const warning of warnings) log.warn({}, warning);
    const namespace = settings["pool-namespace"] || process.env["NAMESPACE"] || "default";
    // The library writes lines of its own to stderr; whatever matters comes back as an error.
    setLogVerbosity(logVerbosity.NONE);
    provideContracts();
    const stopped = firstSignal();
    let running: RunningEpp;
    try {
      running = await startEpp({
        settings,
        log,
        version: packageVersion(),
        namespace,
        given,
        environment: process.env,
        // What no flag gave was written from the environment.
        ...(settings["config-text"] !== "" && !given.has("config-text")
          ? { configurationSource: "the environment (DYN_*)" }
          : {}),
      });
    } catch (error) {
      process.stderr.write(`signalbox epp: ${explain(error)}\n`);
      return error instanceof ConfigError ? exitCode.usage : exitCode.failed;
    }
    const broken = untilBroken(log, running);
    const signal = await Promise.race([stopped, broken]);
    log.info({ signal }, "stopping");
    await running.drain();
    log.info({}, "stopped");
    return signal === "broken" ? exitCode.failed : exitCode.ok;
  },
});
