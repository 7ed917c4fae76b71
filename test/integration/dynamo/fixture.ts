/** What a test of peers and pickers opens, closed in reverse order whether it passed or not; and a look that fails with what was seen last. */
import { type DynamoPeer, type PeerOptions, startPeer } from "../../dynamo-peer/peer.ts";
import { type PeerProcess, startPeerProcess } from "../../dynamo-peer/peer-process.ts";
import { createSite, type PeerSite, type SiteOptions } from "../../dynamo-peer/site.ts";
import { eventually } from "../../stack.ts";
import { type Picking, type PickingOptions, startPicking } from "./picking.ts";

export interface Fixture {
  site(options?: SiteOptions): PeerSite;
  peer(site: PeerSite, options?: PeerOptions): Promise<DynamoPeer>;
  peers(site: PeerSite, count: number, options?: PeerOptions): Promise<DynamoPeer[]>;
  process(site: PeerSite, options?: Omit<PeerOptions, "instanceId">): Promise<PeerProcess>;
  picker(site: PeerSite, options?: PickingOptions): Promise<Picking>;
  /** Anything else that is to be closed. */
  keep<Open extends { close(): Promise<void> }>(open: Open): Open;
  closeAll(): Promise<void>;
}

export function createFixture(): Fixture {
  const open: { close(): Promise<void> }[] = [];
  const keep = <Open extends { close(): Promise<void> }>(one: Open): Open => {
    open.push(one);
    return one;
  };
  return {
    keep,
    site: (options) => keep(createSite(options)),
    peer: async (site, options) => keep(await startPeer(site, options)),
    peers: (site, count, options) =>
      Promise.all(Array.from({ length: count }, async () => keep(await startPeer(site, options)))),
    process: async (site, options) => keep(await startPeerProcess(site, options)),
    picker: async (site, options) => keep(await startPicking(site, options)),
    async closeAll() {
      const faults: unknown[] = [];
      for (let last = open.pop(); last !== undefined; last = open.pop()) {
        await last.close().catch((error: unknown) => faults.push(error));
      }
      if (faults.length > 0) throw new AggregateError(faults, "something did not close");
    },
  };
}

/** Decimal ids, sorted as `Picking.workers` sorts them. */
export function idsOf(peers: readonly { readonly instanceId: bigint }[]): string[] {
  return peers.map(({ instanceId }) => instanceId.toString()).sort();
}

/** Waits until the picker knows exactly these workers. */
export async function knows(
  picking: Picking,
  peers: readonly { readonly instanceId: bigint }[],
  deadlineMs = 20_000,
): Promise<void> {
  const wanted = idsOf(peers).join();
  let last = "";
  await eventually(
    "these workers",
    async () => {
      last = (await picking.workers()).join();
      return last === wanted;
    },
    deadlineMs,
  ).catch((error: unknown) => {
    throw new Error(`the picker knows ${last}, not ${wanted}`, { cause: error });
  });
}
