/** Model servers of which the picker sees the metrics page and nothing else: each on a loopback port of its own, its values set by the test. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

export interface EngineState {
  readonly queue: number;
  readonly kv: number;
  /** Adapters that run; two slots are there, or as many as run. */
  readonly adapters?: readonly string[];
}

export interface FakeEngine {
  /** ip:port */
  readonly address: string;
  readonly port: number;
  state: EngineState;
}

export interface FakeEngines {
  readonly engines: readonly FakeEngine[];
  set(states: readonly EngineState[]): void;
  close(): Promise<void>;
}

const idle: EngineState = { queue: 0, kv: 0 };

export async function startFakeEngines(count: number): Promise<FakeEngines> {
  return await startFakeEnginesAt(Array.from({ length: count }, () => ({ host: "127.0.0.1", port: 0 })));
}

/** One at each address; port 0 is a free one. */
export async function startFakeEnginesAt(
  addresses: readonly { readonly host: string; readonly port: number }[],
): Promise<FakeEngines> {
  const started = await Promise.all(addresses.map(({ host, port }) => startEngine(host, port)));
  const engines = started.map(({ engine }) => engine);
  return {
    engines,
    set(states) {
      for (const [i, engine] of engines.entries()) engine.state = states[i] ?? idle;
    },
    async close() {
      await Promise.all(started.map(({ server }) => closeServer(server)));
    },
  };
}

async function startEngine(host: string, wanted: number): Promise<{ engine: FakeEngine; server: Server }> {
  let engine: FakeEngine | undefined;
  const server = createServer((request, response) => {
    const isMetrics = request.url === "/metrics";
    response.writeHead(isMetrics ? 200 : 404, { "content-type": "text/plain; version=0.0.4" });
    response.end(isMetrics ? page(engine?.state ?? idle) : "");
  });
  await new Promise<void>((resolve) => server.listen(wanted, host, resolve));
  const { port } = server.address() as AddressInfo;
  engine = { address: `${host}:${port}`, port, state: idle };
  return { engine, server };
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

function page({ queue, kv, adapters = [] }: EngineState): string {
  const slots = Math.max(2, adapters.length);
  return [
    "# TYPE vllm:num_requests_waiting gauge",
    `vllm:num_requests_waiting{engine="0",model_name="base"} ${queue}`,
    "# TYPE vllm:num_requests_running gauge",
    `vllm:num_requests_running{engine="0",model_name="base"} 0`,
    "# TYPE vllm:kv_cache_usage_perc gauge",
    `vllm:kv_cache_usage_perc{engine="0",model_name="base"} ${kv}`,
    "# TYPE vllm:lora_requests_info gauge",
    `vllm:lora_requests_info{max_lora="${slots}",running_lora_adapters="${adapters.join(",")}",waiting_lora_adapters=""} 1`,
    "",
  ].join("\n");
}
