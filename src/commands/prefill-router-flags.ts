/** The flags of `signalbox prefill-router`: those of Dynamo's select service with its defaults, and where to listen and what to log. */

import type { FlagTable, FlagValues } from "../config/flags.ts";
import { defaultPendingBounds } from "../prefill-router/service/pending-selections.ts";

export const prefillRouterFlags = {
  host: {
    group: "Serving",
    type: "string",
    default: "0.0.0.0",
    help: "Address to listen on.",
  },
  port: { group: "Serving", type: "int", default: 8092, min: 0, max: 65_535, help: "Port; 0 picks a free one." },
  "drain-timeout": {
    group: "Serving",
    type: "duration",
    default: 5_000,
    help: "How long answers may still take after SIGTERM.",
  },
  "log-format": {
    group: "Serving",
    type: "string",
    default: "",
    oneOf: ["", "json", "pretty"],
    help: "Log lines. Empty: pretty on a terminal, else JSON.",
  },
  v: {
    group: "Serving",
    type: "int",
    default: 2,
    min: 0,
    max: 5,
    short: "v",
    help: "Verbosity: 2 info, 4 debug, 5 trace.",
  },
  threads: {
    group: "Index",
    type: "int",
    default: 4,
    min: 1,
    help: "Accepted for Dynamo's sake: the index needs no threads of its own.",
  },
  "indexer-peers": {
    group: "Index",
    type: "strings",
    default: [],
    placeholder: "urls",
    help: "HTTP URLs of other selectors (or Dynamo indexers) whose blocks are taken over at the start.",
  },
  "replica-sync-port": {
    group: "Replicas",
    type: "int",
    default: -1,
    min: -1,
    max: 65_535,
    help: "ZeroMQ port that tells other selectors what is booked here; 0 picks a free one. -1: none.",
  },
  "replica-sync-peers": {
    group: "Replicas",
    type: "strings",
    default: [],
    placeholder: "endpoints",
    help: "ZeroMQ endpoints of other selectors, e.g. tcp://10.0.0.2:9092. Needs --replica-sync-port.",
  },
  "session-affinity-ttl-secs": {
    group: "Routing",
    type: "int",
    default: 0,
    min: 0,
    max: 31_536_000,
    help: "Keeps each session_id with the worker that served it, for so many seconds after its last request. 0: DYN_ROUTER_SESSION_AFFINITY_TTL_SECS, else off.",
  },
  "selection-cache-ttl-secs": {
    group: "Selections to be booked",
    type: "number",
    default: defaultPendingBounds.ttlMs / 1000,
    min: 0,
    help: "How long a selection may still be booked by its id.",
  },
  "selection-cache-max-entries": {
    group: "Selections to be booked",
    type: "int",
    default: defaultPendingBounds.maxEntries,
    min: 0,
    help: "How many are kept; the oldest go first.",
  },
  "selection-cache-max-bytes": {
    group: "Selections to be booked",
    type: "bytes",
    default: defaultPendingBounds.maxBytes,
    help: "How many bytes they may take, about.",
  },
  "router-assume-kv-reuse": {
    group: "Routing",
    type: "bool",
    default: true,
    help: "Requests on one worker share the blocks they have in common.",
  },
  "no-router-assume-kv-reuse": {
    group: "Routing",
    type: "bool",
    default: false,
    help: "Every request counts all its blocks.",
  },
  "router-tracking-hash": {
    group: "Routing",
    type: "string",
    default: "",
    oneOf: ["", "public-xxh3-v1", "keyed-xxh3-v1"],
    help: "What running blocks are counted by. Empty: DYN_ROUTER_TRACKING_HASH, else public-xxh3-v1.",
  },
  "router-tracking-key-file": {
    group: "Routing",
    type: "string",
    default: "",
    placeholder: "path",
    help: "File with the 32 bytes of the key for keyed-xxh3-v1.",
  },
  "router-tracking-key-id": {
    group: "Routing",
    type: "string",
    default: "",
    help: "Name of the key's epoch; part of every keyed hash.",
  },
} as const satisfies FlagTable;

export type PrefillRouterSettings = FlagValues<typeof prefillRouterFlags>;

export function faultsOfPrefillRouterFlags(settings: PrefillRouterSettings): readonly string[] {
  const faults: string[] = [];
  if (settings["replica-sync-peers"].length > 0 && settings["replica-sync-port"] < 0) {
    faults.push("--replica-sync-peers requires --replica-sync-port");
  }
  if (settings["no-router-assume-kv-reuse"] && settings["router-assume-kv-reuse"] !== true) {
    faults.push("--router-assume-kv-reuse and --no-router-assume-kv-reuse say the same twice; give one");
  }
  return faults;
}

/** Flags that stand for settings of the router, which go before their variables. */
export function routerParametersOf(settings: PrefillRouterSettings, given: ReadonlySet<string>) {
  const text = (name: "router-tracking-hash" | "router-tracking-key-file" | "router-tracking-key-id") =>
    settings[name] === "" ? undefined : settings[name];
  const reuse = given.has("router-assume-kv-reuse") ? settings["router-assume-kv-reuse"] : undefined;
  const ttl = settings["session-affinity-ttl-secs"];
  return {
    routerAssumeKvReuse: settings["no-router-assume-kv-reuse"] ? false : reuse,
    sessionAffinityTtlSecs: ttl === 0 ? undefined : ttl,
    routerTrackingHash: text("router-tracking-hash"),
    routerTrackingKeyFile: text("router-tracking-key-file"),
    routerTrackingKeyId: text("router-tracking-key-id"),
  };
}
