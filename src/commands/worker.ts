/** `signalbox worker`: one or more simulated engines behind vLLM's HTTP surface. Flags keep vLLM's names where it has them. */
import { defaultWorkerOptions as defaults } from "../sim/worker/options.ts";
import { type RunningWorker, startWorker } from "../sim/worker/start-worker.ts";
import { defineCommand, exitCode } from "./command.ts";

export const worker = defineCommand({
  name: "worker",
  summary: "a simulated engine with vLLM's HTTP surface, for trying things without a GPU",
  description:
    "Serves the OpenAI API as a vLLM server does, from a simulated engine: paged KV cache with prefix reuse, continuous batching, " +
    "preemption, LoRA slots, real metrics and KV events. Answers are made of fixed words, the same for the same prompt and seed.",
  examples: [
    "signalbox worker --port 8000",
    "signalbox worker --count 4 --port 8001 --served-model-name llama --num-gpu-blocks 4096",
    "signalbox worker --lora-modules sql,chat --max-loras 1 --kv-events-endpoint 'tcp://*:5557'",
  ],
  flags: {
    host: { type: "string", default: defaults.host, help: "Address to listen on.", group: "Server" },
    port: {
      type: "int",
      default: defaults.port,
      min: 0,
      max: 65535,
      help: "Port; 0 picks a free one.",
      group: "Server",
    },
    count: {
      type: "int",
      default: 1,
      min: 1,
      max: 1024,
      help: "Workers in this process, on consecutive ports (and consecutive KV event ports).",
      group: "Server",
    },
    name: {
      type: "string",
      default: "",
      help: "Value of the answer header x-signalbox-worker; with --count, its beginning. Empty is worker-<port>.",
      group: "Server",
    },
    "max-body-bytes": {
      type: "bytes",
      default: defaults.maxBodyBytes,
      help: "Larger request bodies are answered 413.",
      group: "Server",
    },
    model: { type: "string", default: "", help: "Model id; as --served-model-name with one name.", group: "Model" },
    "served-model-name": {
      type: "strings",
      default: defaults.servedModelNames,
      help: "Model ids; the first is shown, the others are aliases.",
      group: "Model",
    },
    "max-model-len": {
      type: "int",
      default: defaults.maxModelLen,
      min: 1,
      help: "Tokens of prompt and answer together; never more than the cache holds.",
      group: "Model",
    },
    "lora-modules": { type: "strings", default: [], help: "Names of LoRA adapters that are served.", group: "Model" },
    "max-loras": {
      type: "int",
      default: defaults.maxLoras,
      min: 1,
      help: "Adapters that run at once; requests for others wait.",
      group: "Model",
    },
    "answer-tokens": {
      type: "int",
      default: defaults.answerTokens,
      min: 1,
      help: "Length of an answer whose request sets no limit, in tokens.",
      group: "Model",
    },
    "embedding-dimensions": {
      type: "int",
      default: defaults.embeddingDimensions,
      min: 1,
      help: "Length of an embedding.",
      group: "Model",
    },
    seed: { type: "int", default: defaults.seed, help: "Seed of answers, jitter and faults.", group: "Model" },
    "max-num-seqs": {
      type: "int",
      default: defaults.maxNumSeqs,
      min: 1,
      help: "Requests in one batch.",
      group: "Engine",
    },
    "max-num-batched-tokens": {
      type: "int",
      default: defaults.maxNumBatchedTokens,
      min: 1,
      help: "Tokens in one step: longer prompts are prefilled in chunks.",
      group: "Engine",
    },
    "block-size": { type: "int", default: defaults.blockSize, min: 1, help: "Tokens in a KV block.", group: "Engine" },
    "num-gpu-blocks": {
      type: "int",
      default: defaults.numGpuBlocks,
      min: 1,
      help: "KV blocks in the cache.",
      group: "Engine",
    },
    "enable-prefix-caching": {
      type: "bool",
      default: defaults.prefixCaching,
      help: "Reuse the KV blocks of equal prefixes.",
      group: "Engine",
    },
    "prefill-tokens-per-second": {
      type: "number",
      default: defaults.prefillTokensPerSecond,
      min: 1,
      help: "Prompt tokens computed a second, at short context.",
      group: "Speed",
    },
    "attention-tokens": {
      type: "number",
      default: defaults.attentionTokens,
      min: 1,
      help: "Context length, in tokens, at which a prompt token costs twice as much.",
      group: "Speed",
    },
    "decode-step-ms": {
      type: "number",
      default: defaults.decodeStepMs,
      min: 0.001,
      help: "One step with one decode and an empty cache, in ms; a full cache about doubles it.",
      group: "Speed",
    },
    "lora-load-ms": {
      type: "number",
      default: defaults.loraLoadMs,
      min: 0,
      help: "Loading an adapter into a slot, in ms.",
      group: "Speed",
    },
    jitter: {
      type: "number",
      default: defaults.jitter,
      min: 0,
      max: 1,
      help: "Share of a step by which its length varies.",
      group: "Speed",
    },
    "time-scale": {
      type: "number",
      default: defaults.timeScale,
      min: 0.001,
      help: "Simulated seconds a real second: 10 is ten times as fast.",
      group: "Speed",
    },
    "kv-events-endpoint": {
      type: "string",
      default: "",
      help: "ZeroMQ PUB endpoint for KV events, e.g. tcp://*:5557. Empty publishes none.",
      group: "KV events",
    },
    "kv-events-port": {
      type: "int",
      default: 0,
      min: 0,
      max: 65535,
      help: "Short for --kv-events-endpoint tcp://*:<port>; 0 is off.",
      group: "KV events",
    },
    "kv-replay-endpoint": {
      type: "string",
      default: "",
      help: "ZeroMQ ROUTER endpoint that replays past batches.",
      group: "KV events",
    },
    "kv-events-topic": {
      type: "string",
      default: "",
      help: "Topic of KV events. Empty is kv@<host>:<port>@<model>.",
      group: "KV events",
    },
    "start-delay": { type: "duration", default: 0, help: "Time before anything listens.", group: "Faults on purpose" },
    "fail-after-tokens": {
      type: "int",
      default: 0,
      min: 0,
      help: "Cut the connection after this many tokens of an answer; 0 never does.",
      group: "Faults on purpose",
    },
    "error-rate": {
      type: "number",
      default: 0,
      min: 0,
      max: 1,
      help: "Share of inference requests answered 500.",
      group: "Faults on purpose",
    },
    hang: {
      type: "bool",
      default: false,
      help: "Read inference requests and never answer.",
      group: "Faults on purpose",
    },
    "metrics-malformed": {
      type: "bool",
      default: false,
      help: "Repeat a HELP line on the metrics page.",
      group: "Faults on purpose",
    },
  },
  validate(values, given) {
    const faults: string[] = [];
    if (given.has("kv-events-port") && given.has("kv-events-endpoint")) {
      faults.push("--kv-events-port and --kv-events-endpoint exclude each other");
    }
    if (values["kv-replay-endpoint"] !== "" && values["kv-events-endpoint"] === "" && values["kv-events-port"] === 0) {
      faults.push("--kv-replay-endpoint needs --kv-events-endpoint or --kv-events-port");
    }
    if (values.port !== 0 && values.port + values.count - 1 > 65535)
      faults.push("--count: the last port is above 65535");
    return faults;
  },
  async run(values) {
    const eventsEndpoint =
      values["kv-events-port"] > 0 ? `tcp://*:${values["kv-events-port"]}` : values["kv-events-endpoint"];
    const workers: RunningWorker[] = [];
    try {
      for (let index = 0; index < values.count; index++) {
        const port = values.port === 0 ? 0 : values.port + index;
        const name = values.name === "" ? `worker-${port === 0 ? index : port}` : values.name;
        const started = await startWorker({
          name: values.name !== "" && values.count > 1 ? `${name}-${index}` : name,
          host: values.host,
          port,
          servedModelNames: values.model === "" ? values["served-model-name"] : [values.model],
          loraModules: values["lora-modules"],
          maxLoras: values["max-loras"],
          maxNumSeqs: values["max-num-seqs"],
          maxNumBatchedTokens: values["max-num-batched-tokens"],
          maxModelLen: values["max-model-len"],
          blockSize: values["block-size"],
          numGpuBlocks: values["num-gpu-blocks"],
          prefixCaching: values["enable-prefix-caching"],
          seed: values.seed,
          prefillTokensPerSecond: values["prefill-tokens-per-second"],
          decodeStepMs: values["decode-step-ms"],
          attentionTokens: values["attention-tokens"],
          loraLoadMs: values["lora-load-ms"],
          jitter: values.jitter,
          timeScale: values["time-scale"],
          answerTokens: values["answer-tokens"],
          embeddingDimensions: values["embedding-dimensions"],
          maxBodyBytes: values["max-body-bytes"],
          startDelayMs: index === 0 ? values["start-delay"] : 0,
          faults: {
            failAfterTokens: values["fail-after-tokens"],
            errorRate: values["error-rate"],
            metricsMalformed: values["metrics-malformed"],
            hang: values.hang,
          },
          kvEventsEndpoint: endpointOf(eventsEndpoint, index),
          kvReplayEndpoint: endpointOf(values["kv-replay-endpoint"], index),
          kvEventsTopic: values["kv-events-topic"] === "" ? undefined : values["kv-events-topic"],
        });
        workers.push(started);
        process.stdout.write(`${started.name} listens on ${started.url}\n`);
      }
      await untilStopped();
      return exitCode.ok;
    } catch (error) {
      process.stderr.write(`signalbox worker: ${error instanceof Error ? error.message : String(error)}\n`);
      return exitCode.failed;
    } finally {
      await Promise.all(workers.map((running) => running.close()));
    }
  },
});

/** The endpoint of the index-th worker: its port counts up, as vLLM's does with the data parallel rank. */
function endpointOf(endpoint: string, index: number): string | undefined {
  if (endpoint === "") return undefined;
  const colon = endpoint.lastIndexOf(":");
  const port = Number(endpoint.slice(colon + 1));
  if (index === 0 || !Number.isInteger(port) || port === 0) return endpoint;
  return `${endpoint.slice(0, colon + 1)}${port + index}`;
}

function untilStopped(): Promise<void> {
  return new Promise((resolve) => {
    process.once("SIGTERM", () => resolve());
    process.once("SIGINT", () => resolve());
  });
}
