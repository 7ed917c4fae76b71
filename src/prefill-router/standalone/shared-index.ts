/** The index over raw engines where pickers share theirs: it keeps what it was told, to tell it again, and takes over what a peer tells. */
import type { PeerAddress } from "../../data/peers/peer-addresses.ts";
import type { Holder, KvIndex } from "../../data/prefix-index/kv-index.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { WorkerRank } from "../contracts.ts";
import { defaultRoutingGroup as routingGroup } from "../routing-group.ts";
import { dumpEvents, dumpText } from "../service/dump.ts";
import { takeDump } from "../service/dump-reader.ts";
import { LoggedIndex } from "../service/logged-index.ts";
import { IndexPeers } from "./index-peers.ts";

export interface SharedIndexInit {
  /** What events feed. */
  readonly fed: KvIndex;
  /** Of all peers, and HTTP URLs where they are not found. */
  readonly peers: { readonly port: number; readonly urls: readonly string[] | undefined };
  readonly modelName: string;
  readonly blockSize: number;
  /** The engines are known, so that what is told of them can be placed. */
  readonly isPrepared: () => boolean;
  readonly ranks: () => Iterable<{ readonly rank: WorkerRank; readonly holder: Holder }>;
  /** For what a peer tells of a rank; undefined where there is no such engine. */
  readonly holderOf: (rank: WorkerRank) => Holder | undefined;
  readonly log: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly random: () => number;
}

export class SharedIndex {
  /** For the events. */
  readonly index: LoggedIndex;
  readonly #init: SharedIndexInit;
  readonly #peers: IndexPeers;

  constructor(init: SharedIndexInit) {
    const { fed, peers, isPrepared, log, now, random } = init;
    this.#init = init;
    this.index = new LoggedIndex(fed, random);
    this.#peers = new IndexPeers({
      ...peers,
      dump: () => this.#dump(),
      takeOver: (dump) => this.#takeOver(dump),
      isPrepared,
      log,
      now,
      random,
    });
  }

  begin(): void {
    this.#peers.begin();
  }

  found(addresses: readonly PeerAddress[]): void {
    this.#peers.found(addresses);
  }

  get isRecovering(): boolean {
    return this.#peers.isRecovering;
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return this.#peers.state();
  }

  close(): Promise<void> {
    return this.#peers.close();
  }

  #dump(): AsyncIterable<string> {
    const { modelName, blockSize, ranks } = this.#init;
    const dumped = Array.from(ranks(), ({ rank, holder }) => ({ rank, logs: this.index.logsOf(holder) }));
    return dumpText([{ modelName, routingGroup, blockSize, events: dumpEvents(dumped) }]);
  }

  async #takeOver(dump: Uint8Array): Promise<number> {
    const { modelName, blockSize, holderOf } = this.#init;
    const takeover = this.index.beginTakeover();
    try {
      return await takeDump(dump, (of) => {
        const isOurs = of.modelName === modelName && of.routingGroup === routingGroup && of.blockSize === blockSize;
        return isOurs ? { index: takeover.index, holderOf } : undefined;
      });
    } finally {
      takeover.end();
    }
  }
}
