/**
 * The endpoints as servers of the router: each comes and goes with its endpoint, is known by its pod's name, and has the ranks that its engine spoke
 * for. Two endpoints of one id are one server, the first of them.
 */
import type { Endpoint, Endpoints } from "../../data/endpoint.ts";
import { parseLabelSelector } from "../../data/kv-events/label-selector.ts";
import type { Holder } from "../../data/prefix-index/kv-index.ts";
import type { EndpointStoreView } from "../../data/store-view.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { PrefillRouter, RouterWorker } from "../contracts.ts";
import { workerIdOf } from "../plugin/placement.ts";
import {
  assumedSpan,
  type EngineLimits,
  type RankSpan,
  routerWorkerOf,
  spanWith,
  totalKvBlocksOf,
} from "./endpoint-worker.ts";

export interface EngineServersInit {
  readonly endpoints: EndpointStoreView;
  readonly limits: EngineLimits;
  /** Label selector of those that compute prompts for the others; undefined: each does both. */
  readonly prefillSelector: string | undefined;
  readonly router: Pick<PrefillRouter, "upsertWorker" | "removeWorker" | "setHolder">;
  /** Another process stands behind the id, or none. */
  readonly replaced: (id: bigint) => void;
  /** The router was told of the same process once more. */
  readonly retold: (id: bigint) => void;
  readonly log: Logger;
}

export interface EngineServer {
  readonly id: bigint;
  readonly endpoint: Endpoint;
}

interface Server extends EngineServer {
  endpoint: Endpoint;
  /** Ranks that have spoken. */
  heard: RankSpan | undefined;
  totalKvBlocks: number | undefined;
}

export class EngineServers {
  readonly #init: EngineServersInit;
  readonly #isPrefillServer: ((labels: Endpoint["labels"]) => boolean) | undefined;
  readonly #servers = new Map<bigint, Server>();
  #unsubscribe: (() => void) | undefined;
  #seen: Endpoints | undefined;

  constructor(init: EngineServersInit) {
    const { prefillSelector } = init;
    this.#init = init;
    this.#isPrefillServer = prefillSelector === undefined ? undefined : parseLabelSelector(prefillSelector);
  }

  begin(): void {
    const { endpoints } = this.#init;
    this.#unsubscribe = endpoints.subscribe({
      added: (endpoint) => this.#added(endpoint),
      removed: (endpoint) => this.#removed(endpoint),
    });
    for (const endpoint of endpoints.snapshot()) this.#added(endpoint);
  }

  close(): void {
    this.#unsubscribe?.();
  }

  get size(): number {
    return this.#servers.size;
  }

  [Symbol.iterator](): IterableIterator<EngineServer> {
    return this.#servers.values();
  }

  endpointOf(id: bigint): Endpoint | undefined {
    return this.#servers.get(id)?.endpoint;
  }

  isPrefillServer(id: bigint): boolean {
    const endpoint = this.endpointOf(id);
    return endpoint !== undefined && this.#roleOf(endpoint) === "prefill";
  }

  /** A rank of an engine has blocks, or has none any more. */
  heard(endpoint: Endpoint, rank: number, holder: Holder | undefined): void {
    const server = this.#serverOf(endpoint);
    if (server === undefined) return;
    if (holder !== undefined) {
      const heard = spanWith(server.heard, rank);
      if (heard === undefined) return;
      const span = server.heard ?? assumedSpan(endpoint);
      server.heard = heard;
      if (heard.first !== span.first || heard.size !== span.size) this.#tell(server);
    }
    this.#init.router.setHolder({ workerId: server.id, dpRank: rank }, holder);
  }

  /**
   * What a scrape says of engines that nobody has told of, and labels that make another kind of a server; a look at the snapshot while nothing has
   * changed.
   */
  follow(): void {
    const { endpoints, limits } = this.#init;
    if (limits.totalKvBlocks !== undefined && this.#isPrefillServer === undefined) return;
    const snapshot = endpoints.snapshot();
    if (snapshot === this.#seen) return;
    this.#seen = snapshot;
    for (const endpoint of snapshot) {
      const server = this.#serverOf(endpoint);
      if (server === undefined) continue;
      const totalKvBlocks = totalKvBlocksOf(endpoint) ?? server.totalKvBlocks;
      const isSame = totalKvBlocks === server.totalKvBlocks && this.#roleOf(endpoint) === this.#roleOf(server.endpoint);
      server.endpoint = endpoint;
      if (isSame) continue;
      server.totalKvBlocks = totalKvBlocks;
      this.#tell(server);
    }
  }

  /** Another server of its kind may be chosen; without a prefill server requests are served all the same. */
  hasStandIn(id: bigint, isExcluded: (id: bigint) => boolean): boolean {
    const server = this.#servers.get(id);
    const role = server && this.#roleOf(server.endpoint);
    if (role === "prefill") return true;
    for (const other of this.#servers.values()) {
      if (other !== server && !isExcluded(other.id) && this.#roleOf(other.endpoint) === role) return true;
    }
    return false;
  }

  #added(endpoint: Endpoint): void {
    const id = workerIdOf(endpoint);
    const known = this.#servers.get(id);
    if (known !== undefined && known.endpoint.name !== endpoint.name) {
      this.#init.log.error(
        { endpoint: endpoint.name, known: known.endpoint.name, id: id.toString() },
        "two endpoints have one worker id: the second gets no requests",
      );
      return;
    }
    const server: Server = { id, endpoint, heard: undefined, totalKvBlocks: totalKvBlocksOf(endpoint) };
    this.#servers.set(id, server);
    this.#init.replaced(id);
    this.#tell(server);
  }

  #removed(endpoint: Endpoint): void {
    const server = this.#serverOf(endpoint);
    if (server === undefined) return;
    this.#servers.delete(server.id);
    this.#init.replaced(server.id);
    this.#init.router.removeWorker(server.id);
  }

  #serverOf(endpoint: Endpoint): Server | undefined {
    const server = this.#servers.get(workerIdOf(endpoint));
    return server?.endpoint.generation === endpoint.generation ? server : undefined;
  }

  #tell({ id, endpoint, heard }: Server): void {
    const { router, limits, retold } = this.#init;
    router.upsertWorker(routerWorkerOf(id, endpoint, this.#roleOf(endpoint), heard ?? assumedSpan(endpoint), limits));
    retold(id);
  }

  #roleOf({ labels }: Endpoint): RouterWorker["role"] {
    if (this.#isPrefillServer === undefined) return "aggregated";
    return this.#isPrefillServer(labels) ? "prefill" : "decode";
  }
}
