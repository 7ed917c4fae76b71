/** `--pool-name NAME[:PORT]`, repeated or by commas: the pools of one process, each with an ext-proc port by which gateways tell them apart. */
import { parsePort } from "../data/discovery/endpoint-address.ts";

export interface PoolChoice {
  /** "" where there is no pool object: one unnamed pool. */
  readonly name: string;
  /** Of its ext-proc service; 0 picks a free one. */
  readonly grpcPort: number;
}

/** A DNS label, as the API server asks of names that become labels. */
const poolName = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;

export function isPoolName(text: string): boolean {
  return poolName.test(text);
}

/** At least one pool; the first one has the port of --grpc-port unless it names its own. All faults at once. */
export function parsePoolNames(
  names: readonly string[],
  grpcPort: number,
): { readonly pools: readonly PoolChoice[]; readonly faults: readonly string[] } {
  const pools: PoolChoice[] = [];
  const faults: string[] = [];
  for (const text of names) {
    const [name = "", portText, ...rest] = text.split(":");
    const port = portText === undefined ? defaultPort(pools.length, grpcPort) : parsePort(portText);
    if (!poolName.test(name) || rest.length > 0) {
      faults.push(`--pool-name: ${JSON.stringify(text)} is not NAME or NAME:PORT`);
    } else if (portText === undefined && port === undefined) {
      faults.push(`--pool-name: of several pools each but the first needs a port of its own: ${name}:PORT`);
    } else if (port === undefined) {
      faults.push(`--pool-name: ${JSON.stringify(text)}: the port must be 1 to 65535`);
    } else if (pools.some((other) => other.name === name)) {
      faults.push(`--pool-name: ${name} is named twice`);
    } else if (port !== 0 && pools.some((other) => other.grpcPort === port)) {
      faults.push(`--pool-name: port ${port} is given to two pools`);
    } else pools.push({ name, grpcPort: port });
  }
  return { pools: pools.length === 0 ? [{ name: "", grpcPort }] : pools, faults };
}

function defaultPort(index: number, grpcPort: number): number | undefined {
  return index === 0 || grpcPort === 0 ? grpcPort : undefined;
}
