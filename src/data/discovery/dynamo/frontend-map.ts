/**
 * Where the frontend of a Dynamo worker listens, outside Kubernetes: named for the worker, else beside it on a fixed port, else one that all
 * share. The first that matches counts.
 */
import { parseHostPort, parsePort } from "../endpoint-address.ts";

export interface FrontendMapParameters {
  /** "ip:port" of one frontend for all workers. */
  readonly frontend?: string;
  /** Port of the frontend that runs on each worker's host. */
  readonly frontendPort?: number;
  readonly frontends?: readonly {
    /** Instance id (decimal, or hex as in discovery keys with 0x before it), stable routing id, or host of its request plane. */
    readonly worker: string;
    readonly address: string;
  }[];
}

export interface FrontendAddress {
  readonly address: string;
  readonly port: number;
}

/** "ip:port" for all, ":port" beside each worker, "WORKER=ip:port" for one. The parameters are only to be used where there is no fault. */
export function parseFrontendList(entries: readonly string[]): {
  readonly parameters: FrontendMapParameters;
  readonly faults: readonly string[];
} {
  const faults: string[] = [];
  const frontends: { readonly worker: string; readonly address: string }[] = [];
  let frontend: string | undefined;
  let frontendPort: number | undefined;
  for (const entry of entries) {
    const equals = entry.lastIndexOf("=");
    if (equals >= 0) {
      frontends.push({ worker: entry.slice(0, equals), address: entry.slice(equals + 1) });
    } else if (/^:\d/.test(entry)) {
      const port = parsePort(entry.slice(1));
      if (port === undefined) faults.push(`"${entry}": the port must be 1 to 65535`);
      if (frontendPort !== undefined) faults.push(`"${entry}": a port beside each worker is named already`);
      frontendPort = port;
    } else {
      if (frontend !== undefined) faults.push(`"${entry}": a frontend of all workers is named already`);
      frontend = entry;
    }
  }
  const parameters: FrontendMapParameters = {
    ...(frontend === undefined ? {} : { frontend }),
    ...(frontendPort === undefined ? {} : { frontendPort }),
    ...(frontends.length === 0 ? {} : { frontends }),
  };
  return { parameters, faults: [...faults, ...frontendMapFaults(parameters)] };
}

/** What a worker is known by. */
export interface WorkerNames {
  readonly instanceId: bigint;
  readonly stableRoutingId: string | undefined;
  /** Host of its request plane, without a port; undefined when that is no IP literal. */
  readonly host: string | undefined;
}

export interface FrontendMap {
  /** Undefined: nothing says where its frontend is. */
  find(worker: WorkerNames): FrontendAddress | undefined;
}

/** Faults are reported at once; the map is only for parameters without any. */
export function frontendMapFaults(parameters: FrontendMapParameters): readonly string[] {
  const faults: string[] = [];
  if (parameters.frontend !== undefined) {
    const parsed = parseHostPort(parameters.frontend);
    if ("fault" in parsed) faults.push(`frontend: ${parsed.fault}`);
  }
  const seen = new Set<string>();
  for (const [index, { worker, address }] of (parameters.frontends ?? []).entries()) {
    const parsed = parseHostPort(address);
    if ("fault" in parsed) faults.push(`frontends[${index}].address: ${parsed.fault}`);
    if (seen.has(worker)) faults.push(`frontends[${index}].worker: ${JSON.stringify(worker)} is listed already`);
    seen.add(worker);
  }
  return faults;
}

export function createFrontendMap(parameters: FrontendMapParameters): FrontendMap {
  const shared = parameters.frontend === undefined ? undefined : addressOf(parameters.frontend);
  const { frontendPort } = parameters;
  const named = new Map((parameters.frontends ?? []).map(({ worker, address }) => [worker, addressOf(address)]));
  return {
    find({ instanceId, stableRoutingId, host }) {
      const own =
        named.get(instanceId.toString()) ??
        named.get(`0x${instanceId.toString(16)}`) ??
        (stableRoutingId === undefined ? undefined : named.get(stableRoutingId)) ??
        (host === undefined ? undefined : named.get(host));
      if (own !== undefined) return own;
      if (frontendPort !== undefined && host !== undefined) return { address: host, port: frontendPort };
      return shared;
    },
  };
}

function addressOf(text: string): FrontendAddress {
  const parsed = parseHostPort(text);
  if ("fault" in parsed) throw new RangeError(parsed.fault);
  return parsed;
}
