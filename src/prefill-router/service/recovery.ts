/** What a peer's index knows, fetched when the service starts: the first peer that answers with a dump will do; without one the index starts empty. */
import type { Logger } from "../../telemetry/log.ts";
import { takeDump } from "./dump-reader.ts";
import type { SelectionService } from "./selection-service.ts";

export interface RecoveryOptions {
  readonly service: SelectionService;
  /** HTTP URLs of selectors or indexers. */
  readonly peers: readonly string[];
  readonly log: Logger;
  readonly signal: AbortSignal;
}

const timeoutMs = 10_000;
/** Of text: about three million blocks. */
const maxDumpBytes = 256 * 1024 * 1024;

/** Resolves with the blocks taken; never rejects. */
export async function recoverFromPeers({ service, peers, log, signal }: RecoveryOptions): Promise<number> {
  for (const peer of peers) {
    if (signal.aborted) return 0;
    try {
      const blocks = await take(service, await fetchDump(peer, signal));
      log.info({ peer, blocks }, "took a peer's blocks over");
      return blocks;
    } catch (error) {
      log.warn({ peer, error: String(error) }, "a peer's blocks cannot be had; the next one is asked");
    }
  }
  if (peers.length > 0) log.warn({ peers }, "no peer could be asked for its blocks; the index starts empty");
  return 0;
}

/** The peer is there and does not give its blocks, now or ever. */
export class DumpRefused extends Error {
  readonly code = "DUMP_REFUSED";
  readonly status: number;
  constructor(status: number) {
    super(`the peer answered ${status}`);
    this.name = "DumpRefused";
    this.status = status;
  }
}

/** The dump of the selector or indexer at a URL. Throws DumpRefused, and whatever else keeps it from coming. */
export async function fetchDump(peer: string, stopped: AbortSignal): Promise<Uint8Array> {
  const signal = AbortSignal.any([stopped, AbortSignal.timeout(timeoutMs)]);
  const response = await fetch(`${peer.replace(/\/$/, "")}/dump?max_bytes=${maxDumpBytes}`, { signal });
  if (!response.ok || response.body === null) {
    await response.body?.cancel();
    throw new DumpRefused(response.status);
  }
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body) {
    bytes += chunk.length;
    if (bytes > maxDumpBytes) throw new Error(`the peer's dump is larger than ${maxDumpBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function take(service: SelectionService, dump: Uint8Array): Promise<number> {
  return takeDump(dump, ({ modelName, routingGroup, blockSize }) => {
    const partition = service.catalogue.ensurePartition(modelName, routingGroup, blockSize, false);
    return typeof partition === "string" ? undefined : partition.recovered;
  });
}
